// Figures as words, the same as `mproxy status` says them.

export function bytes(count) {
  const units = ["", "K", "M", "G", "T", "P"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return unit ? `${count.toFixed(1)}${units[unit]}` : String(Math.round(count));
}

export const rate = (value) => (value === null || value === undefined ? "" : `${bytes(value)}/s`);

export const milliseconds = (value) =>
  value === null || value === undefined ? "" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

// The two largest units: `3d 4h`, `2m 5s`.
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  seconds = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    if (seconds >= length || (unit === "s" && !parts.length)) {
      parts.push(`${Math.floor(seconds / length)}${unit}`);
      seconds %= length;
    }
  }
  return parts.slice(0, 2).join(" ");
}

// Of an outage: tenths count below ten seconds.
export const length = (seconds) => (seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : duration(seconds));

export function time(moment) {
  const date = new Date(moment * 1000);
  const sameDay = date.toDateString() === new Date().toDateString();
  return sameDay ? date.toLocaleTimeString() : date.toLocaleString();
}

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const WORDS = { unknown: "unknown", silent: "no answer" };
export const state = (name) => WORDS[name] ?? name ?? "";
