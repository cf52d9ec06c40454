// Pictures of figures: always beside the same figures as text, so hidden from screen readers.

const SVG = "http://www.w3.org/2000/svg";

function node(svg, name, index) {
  let child = svg.children[index];
  if (!child || child.localName !== name) {
    const fresh = document.createElementNS(SVG, name);
    if (child) child.replaceWith(fresh);
    else svg.append(fresh);
    child = fresh;
  }
  return child;
}

// One line of values from 0 to `most`, newest at the right end; a value that is not known leaves a gap.
function line(values, most, room) {
  let path = "";
  let pen = false;
  const from = Math.max(0, values.length - room);
  for (let at = from; at < values.length; at += 1) {
    const value = values[at];
    if (value === null || value === undefined) {
      pen = false;
      continue;
    }
    const x = room - (values.length - at);
    const y = 100 - 96 * Math.min(1, value / most) - 2;
    path += pen ? `L${x} ${y.toFixed(1)}` : `M${x} ${y.toFixed(1)}h0.5`;
    pen = true;
  }
  return path;
}

// Draws lines into `svg`; returns the highest value, which is the upper edge.
export function lines(svg, series, room) {
  let most = 0;
  for (const values of series) for (const value of values.slice(-room)) if (value > most) most = value;
  svg.setAttribute("viewBox", `0 0 ${room} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  series.forEach((values, index) => {
    const path = node(svg, "path", index);
    path.setAttribute("class", index ? "second" : "first");
    path.setAttribute("d", line(values, most || 1, room));
  });
  return most;
}

// The time from `from` to `to`: a bar while connected, a gap with a thin line where it was away.
export function timeline(svg, row, from, to) {
  const scale = 1000 / Math.max(1, to - from);
  const place = (moment) => Math.min(1000, Math.max(0, (moment - from) * scale));
  svg.setAttribute("viewBox", "0 0 1000 20");
  svg.setAttribute("preserveAspectRatio", "none");
  let count = 0;
  const rect = (kind, begin, end, top, height, words) => {
    const [left, right] = [place(begin), place(end)];
    if (end < from || begin > to) return;
    const bar = node(svg, "rect", count);
    count += 1;
    bar.setAttribute("class", kind);
    bar.setAttribute("x", left.toFixed(1));
    bar.setAttribute("width", Math.max(kind === "down" ? 4 : 0, right - left).toFixed(1));
    bar.setAttribute("y", top);
    bar.setAttribute("height", height);
    const title = node(bar, "title", 0);
    if (title.textContent !== words) title.textContent = words;
  };
  const end = row.ended ?? to;
  let at = row.began ?? from;
  for (const [began, over] of row.gaps ?? []) {
    if (began > at) rect("up", at, began, 2, 16, "connected");
    at = Math.max(at, over ?? end);
  }
  if (at < end && row.state !== "connecting") rect("up", at, end, 2, 16, "connected");
  for (const [began, over, why] of row.gaps ?? []) rect("down", began, over ?? end, 8, 4, why);
  while (svg.children.length > count) svg.lastChild.remove();
}
