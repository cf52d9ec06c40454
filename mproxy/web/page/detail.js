// One session, with all that is known of it.

import { lines, timeline } from "./charts.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);

const FACTS = [
  ["program", (row) => row.name],
  ["peer", (row) => row.peer],
  ["key", (row) => row.fingerprint],
  ["comment of the key", (row) => row.comment],
  ["carrier", (row) => row.carrier],
  ["began", (row) => row.began && words.time(row.began)],
  ["last heard", (row, now) => row.quiet_since && row.state !== "ended" && `${words.duration(now - row.quiet_since)} ago`],
  ["next try", (row, now) => row.next_try && `in ${words.duration(row.next_try - now)}`],
  ["heartbeat", (row) => `${row.heartbeat_s} s`],
  ["streams", (row) => `${row.streams} open, ${row.streams_ever} so far`],
  ["sent", (row) => words.bytes(row.sent_bytes)],
  ["received", (row) => words.bytes(row.received_bytes)],
  ["sent again after outages", (row) => words.bytes(row.resent_bytes)],
  ["not acknowledged yet", (row) => words.bytes(row.unacknowledged_bytes)],
  ["not taken by applications yet", (row) => words.bytes(row.undelivered_bytes)],
  ["memory", (row) => words.bytes(row.memory_bytes)],
];

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export class Detail {
  constructor({ onKill, onClose }) {
    this.key = null;
    this.outages = "";
    this.rows = FACTS.map(([name, say]) => {
      const tr = $("facts").tBodies[0].insertRow();
      const th = document.createElement("th");
      th.scope = "row";
      th.textContent = name;
      tr.append(th);
      return { tr, cell: tr.insertCell(), say };
    });
    $("detail-kill").addEventListener("click", () => onKill(this.key));
    $("detail-close").addEventListener("click", () => {
      const key = this.key;
      this.close();
      onClose(key);
    });
  }

  open(key) {
    this.key = key;
    this.outages = "";
    $("detail").hidden = false;
  }

  focus() {
    $("detail-title").focus();
  }

  close() {
    this.key = null;
    $("detail").hidden = true;
  }

  // `row`: what is known of it by now; undefined when that is nothing any more.
  show(row, now) {
    if (!row) {
      this.close();
      return;
    }
    put($("detail-title"), `Session ${row.session || "(none yet)"} of ${row.name}`);
    put($("detail-state"), sayState(row, now));
    $("detail-kill").hidden = !row.session || row.state === "ended";
    for (const { tr, cell, say } of this.rows) {
      const text = say(row, now) || "";
      tr.hidden = !text;
      put(cell, text);
    }
    this.draw(row, now);
    this.listOutages(row, now);
  }

  draw(row, now) {
    const room = 300;
    const { out, in: into, round_trip: roundTrip } = row.samples;
    const most = lines($("rate-chart"), [out, into], room);
    put($("rate-words"), `Rate: ${words.rate(row.out_rate) || "unknown"} out (line), ${words.rate(row.in_rate) || "unknown"}`
      + ` in (dashes); up to ${words.rate(most)} in 5 minutes`);
    const longest = lines($("round-trip-chart"), [roundTrip], room);
    put($("round-trip-words"), `Round trip: ${words.milliseconds(row.round_trip_ms) || "unknown"};`
      + ` up to ${words.milliseconds(longest)} in 5 minutes`);
    const from = Math.min(row.gaps?.[0]?.[0] ?? Infinity, row.seen ?? now, now - 60);
    timeline($("timeline-chart"), row, from, row.ended ?? now);
    put($("timeline-words"), `From ${words.time(from)} to ${row.ended ? words.time(row.ended) : "now"}:`
      + ` ${words.counted(row.outages, "outage")} in all its life`
      + (row.longest_s ? `, the longest ${words.length(row.longest_s)}` : ""));
  }

  listOutages(row, now) {
    const gaps = row.gaps ?? [];
    const lasts = gaps.length && gaps[gaps.length - 1][1] === null;
    const state = JSON.stringify(gaps);
    const body = $("outages").tBodies[0];
    if (state !== this.outages) {
      this.outages = state;
      body.replaceChildren(...gaps.toReversed().map(([began, over, why]) => {
        const tr = document.createElement("tr");
        for (const text of [words.time(began), over === null ? "" : words.length(over - began), why]) {
          tr.insertCell().textContent = text;
        }
        return tr;
      }));
      if (!gaps.length) {
        const cell = body.insertRow().insertCell();
        cell.colSpan = 3;
        cell.textContent = "none";
      }
    }
    if (lasts) put(body.rows[0].cells[1], `${words.length(now - gaps[gaps.length - 1][0])} so far`);
  }
}

function sayState(row, now) {
  const since = row.since && row.state !== "unknown" ? ` for ${words.duration(now - row.since)}` : "";
  return `${words.state(row.state)}${since}${row.why ? `: ${row.why}` : ""}`;
}
