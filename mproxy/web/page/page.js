// The page: takes what mproxy web tells, and draws it. Every text of it is data and stays text.

import { lines, timeline } from "./charts.js";
import { Detail } from "./detail.js";
import { Streams } from "./streams.js";
import { Table, endButton, text } from "./tables.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);

const SAMPLES = 300; // as many as mproxy web keeps
const IN_A_ROW = 120; // of these, in a sparkline
const TIMELINE_S = 600;
const BETWEEN_WORDS_MS = 5000; // a screen reader is told no more often

const tables = { programs: new Map(), sessions: new Map(), transfers: new Map() };
let skew = 0; // seconds that the host's clock is ahead of this one's
const now = () => Date.now() / 1000 + skew;

// ---- what is shown

const order = { away: 0, unknown: 1, connecting: 2, connected: 3, ended: 4, silent: 0, stopping: 1, running: 2 };

const stateCell = (cell) => {
  const span = document.createElement("span");
  cell.append(span);
  return (row) => {
    if (span.dataset.state !== row.state) {
      span.dataset.state = row.state;
      span.className = `state ${order[row.state] === undefined ? "" : row.state}`;
      span.textContent = words.state(row.state);
    }
    cell.title = row.why || "";
  };
};

const figureCell = (values, say) => (cell) => {
  const box = document.createElement("div");
  box.className = "figure";
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.classList.add("spark");
  svg.setAttribute("aria-hidden", "true");
  const span = document.createElement("span");
  box.append(svg, span);
  cell.append(box);
  return (row) => {
    lines(svg, [values(row)], IN_A_ROW);
    const said = say(row);
    if (span.textContent !== said) span.textContent = said;
  };
};

const timelineCell = (cell) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.classList.add("timeline");
  svg.setAttribute("aria-hidden", "true");
  const span = document.createElement("span");
  span.className = "unseen";
  cell.append(svg, span);
  return (row) => {
    const from = now() - TIMELINE_S;
    timeline(svg, row, from, now());
    const recent = (row.gaps ?? []).filter(([, over]) => over === null || over >= from).length;
    const said = words.counted(recent, "outage");
    if (span.textContent !== said) span.textContent = said;
  };
};

const sessionCell = (cell) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  cell.append(button);
  let shown;
  button.addEventListener("click", () => choose(shown.key));
  return (row) => {
    shown = row;
    const said = row.session || "(none yet)";
    if (button.textContent !== said) button.textContent = said;
    cell.parentElement.classList.toggle("chosen", detail.key === row.key);
  };
};

const endCell = (cell) => {
  let shown;
  const button = endButton(cell, () => askToKill(shown.key));
  return (row) => {
    shown = row;
    const gone = !row.session || row.state === "ended";
    if (gone && document.activeElement === button) cell.parentElement.querySelector("button.plain").focus();
    button.hidden = gone;
    button.setAttribute("aria-label", `End session ${row.session}…`);
  };
};

const total = (row) => (typeof row.out_rate === "number" ? row.out_rate + row.in_rate : null);
const outages = (row) => (row.outages ? `${row.outages}${row.longest_s ? `, ${words.length(row.longest_s)}` : ""}` : "");

const streams = new Streams({ onKill: (key, stream) => askToKill(key, stream) });
const detail = new Detail({ onKill: (key) => askToKill(key), onClose: (key) => leave(key) });

const sessions = new Table($("sessions"), [
  { title: "Session", kind: "w-id", value: (row) => row.session, cell: sessionCell },
  { title: "State", kind: "w-state", value: (row) => order[row.state], cell: stateCell },
  { title: "Since", kind: "w-since number wide", value: (row) => -row.since, cell: text((row) => row.since && words.duration(now() - row.since)) },
  { title: "Peer", kind: "", value: (row) => row.peer, cell: text((row) => (row.comment ? `${row.peer} (${row.comment})` : row.peer)) },
  { title: "Program", kind: "rare", value: (row) => row.name, cell: text((row) => row.name) },
  { title: "Rate", kind: "w-figure number", value: total, largestFirst: true,
    cell: figureCell((row) => row.samples.sum, (row) => words.rate(total(row))) },
  { title: "Round trip", kind: "w-figure number wide", value: (row) => row.round_trip_ms, largestFirst: true,
    cell: figureCell((row) => row.samples.round_trip, (row) => words.milliseconds(row.round_trip_ms)) },
  { title: "Streams", kind: "w-number number most", value: (row) => row.streams, largestFirst: true, cell: text((row) => row.streams) },
  { title: "Sent", kind: "w-number number rare", value: (row) => row.sent_bytes, largestFirst: true, cell: text((row) => words.bytes(row.sent_bytes)) },
  { title: "Received", kind: "w-number number rare", value: (row) => row.received_bytes, largestFirst: true, cell: text((row) => words.bytes(row.received_bytes)) },
  { title: "Outages", kind: "w-since number wide", value: (row) => row.outages, largestFirst: true, cell: text(outages) },
  { title: "10 minutes", kind: "w-timeline most", cell: timelineCell },
  { title: "End", unseen: true, kind: "w-end wide", cell: endCell },
], { matches: (row) => matches(row), onDrawn: (rows) => fetchHistories(rows) });
sessions.by = sessions.columns[1];

const transfers = new Table($("transfers"), [
  { title: "Peer", value: (row) => row.peer, cell: text((row) => row.peer) },
  { title: "Program", kind: "wide", value: (row) => row.name, cell: text((row) => row.name) },
  { title: "Done", kind: "w-figure number", value: (row) => row.done_bytes,
    cell: text((row) => words.bytes(row.done_bytes) + (row.total_bytes === null ? "" : ` of ${words.bytes(row.total_bytes)}`)) },
  { title: "Rate", kind: "w-number number", value: (row) => row.rate, cell: text((row) => words.rate(row.rate)) },
  { title: "Left", kind: "w-since number", value: (row) => row.left_s, cell: text((row) => words.duration(row.left_s)) },
  { title: "Since", kind: "w-since number wide", value: (row) => -row.began, cell: text((row) => words.duration(now() - row.began)) },
]);

const programs = new Table($("programs"), [
  { title: "Name", value: (row) => row.name, cell: text((row) => row.name) },
  { title: "State", kind: "w-state", value: (row) => order[row.state], cell: stateCell },
  { title: "Kind", kind: "w-program wide", value: (row) => row.program, cell: text((row) => row.program) },
  { title: "Process", kind: "w-number number", value: (row) => row.pid, cell: text((row) => row.pid) },
  { title: "Up for", kind: "w-since number", value: (row) => -row.started, cell: text((row) => row.started && words.duration(now() - row.started)) },
  { title: "Sessions", kind: "w-number number", value: (row) => row.sessions, largestFirst: true, cell: text((row) => row.sessions) },
  { title: "Where", kind: "wide", value: (row) => row.where, cell: text((row) => row.where) },
]);

// ---- filter and choice

let wanted = [];

$("filter").addEventListener("input", () => {
  wanted = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  sessions.scroll.scrollTop = 0;
  showSessions();
});

function matches(row) {
  if (!wanted.length) return true;
  const found = [row.session, words.state(row.state), row.peer, row.comment, row.name, row.why, row.carrier].join(" ").toLowerCase();
  return wanted.every((word) => found.includes(word));
}

function choose(key) {
  detail.open(key);
  streams.choose(key);
  showDetail();
  showSessions();
  detail.focus();
  fetchHistories([tables.sessions.get(key)]);
}

function showDetail() {
  const row = tables.sessions.get(detail.key);
  detail.show(row, now());
  if (row) streams.look(row);
  else streams.choose(null);
}

function leave(key) {
  streams.choose(null);
  showSessions();
  sessions.drawn.get(key)?.tr.querySelector("button")?.focus();
}

// ---- what arrives

function take(news) {
  skew = news.now - Date.now() / 1000;
  for (const [name, rows] of Object.entries(tables)) {
    if (news.whole) rows.clear();
    for (const key of news[`gone_${name}`]) rows.delete(key);
    for (const [key, fields] of Object.entries(news[name])) {
      const row = rows.get(key) ?? { samples: { out: [], in: [], sum: [], round_trip: [] }, seen: news.now };
      rows.set(key, Object.assign(row, fields, { key }));
    }
  }
  for (const row of tables.sessions.values()) {
    if (row.state !== "ended") sample(row);
  }
  $("link").textContent = "live";
  $("link").className = "link";
  show(news);
}

function sample(row) {
  const push = (values, value) => {
    values.push(value ?? null);
    if (values.length > SAMPLES) values.shift();
  };
  push(row.samples.out, row.out_rate);
  push(row.samples.in, row.in_rate);
  push(row.samples.sum, total(row));
  push(row.samples.round_trip, row.state === "connected" ? row.round_trip_ms : null);
}

function show(news) {
  showSessions();
  programs.show([...tables.programs.values()]);
  $("transfers-part").hidden = !tables.transfers.size;
  if (tables.transfers.size) transfers.show([...tables.transfers.values()]);
  if (detail.key) showDetail();
  summarize(news.more);
}

function showSessions() {
  sessions.show([...tables.sessions.values()]);
  const all = tables.sessions.size;
  $("shown").textContent = sessions.view.length === all ? "" : `${sessions.view.length} of ${all}`;
}

let announcedAt = 0;

function summarize(more) {
  const counts = {};
  for (const { state } of tables.sessions.values()) counts[state] = (counts[state] ?? 0) + 1;
  const states = Object.keys(counts).sort((a, b) => order[a] - order[b]).map((name) => `${counts[name]} ${words.state(name)}`);
  const silent = [...tables.programs.values()].filter((row) => row.state === "silent").length;
  const summary = [
    `${words.counted(tables.programs.size, "program")}, ${words.counted(tables.sessions.size, "session")}${states.length ? `: ${states.join(", ")}` : ""}`,
    silent ? `${words.counted(silent, "program")} without an answer` : "",
    more ? `${more} more than this page shows` : ""].filter(Boolean).join("; ");
  if ($("summary").textContent !== summary) $("summary").textContent = summary;
  document.title = counts.away ? `(${counts.away} away) mproxy` : "mproxy";
  if (Date.now() - announcedAt > BETWEEN_WORDS_MS) announce(summary);
}

function announce(text) {
  if ($("announcement").textContent === text) return;
  announcedAt = Date.now();
  $("announcement").textContent = text;
}

// ---- what is asked for

let fetching = false;

async function fetchHistories(rows) {
  const missing = rows.filter((row) => row && !row.asked).slice(0, 100);
  if (fetching || !missing.length) return;
  fetching = true;
  for (const row of missing) row.asked = true;
  try {
    const query = missing.map((row) => `key=${encodeURIComponent(row.key)}`).join("&");
    const found = await (await fetch(`history?${query}`)).json();
    for (const [key, samples] of Object.entries(found)) {
      const row = tables.sessions.get(key);
      if (!row) continue;
      const sum = samples.out.map((value, at) => (value === null ? null : value + samples.in[at]));
      row.samples = { ...samples, sum };
    }
    sessions.later();
  } catch {
    for (const row of missing) row.asked = false; // the next drawing asks again
  } finally {
    fetching = false;
  }
}

let killed = null; // {key, stream}; without a stream it is the session

function askToKill(key, stream) {
  const row = tables.sessions.get(key);
  if (!row) return;
  killed = { key, stream };
  const what = stream === undefined ? `session ${row.session}` : `stream ${row.session}/${stream}`;
  $("kill-title").textContent = `End ${what}?`;
  $("kill-words").textContent = stream === undefined
    ? `Its peer is ${row.peer}. Both sides are told, and ${words.counted(row.streams, "stream")} will be reset.`
    : `The application's connection is reset at both ends; the session with ${row.peer} stays.`;
  $("kill-wrong").textContent = "";
  $("kill-reason").value = "";
  $("kill").showModal();
  $("kill-reason").focus();
}

async function kill() {
  const request = { ...killed, reason: $("kill-reason").value };
  $("kill-confirm").disabled = true;
  try {
    const answer = await fetch("kill", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
    const said = await answer.json();
    if (answer.ok) $("kill").close();
    else $("kill-wrong").textContent = said.why;
  } catch {
    $("kill-wrong").textContent = "mproxy web does not answer";
  } finally {
    $("kill-confirm").disabled = false;
  }
}

$("kill-confirm").addEventListener("click", kill);
$("kill-cancel").addEventListener("click", () => $("kill").close());
$("kill-reason").addEventListener("keydown", (event) => {
  if (event.key === "Enter") kill();
});

const events = new EventSource("events");
events.addEventListener("message", (event) => take(JSON.parse(event.data)));
events.addEventListener("error", () => {
  const over = events.readyState === EventSource.CLOSED;
  $("link").className = "link lost";
  $("link").textContent = over ? "mproxy web has ended: start it again, and open the address that it prints"
    : "mproxy web does not answer; trying again";
  announce($("link").textContent);
});
