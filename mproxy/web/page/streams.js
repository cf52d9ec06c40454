// The streams of the session that is looked at: asked for once a second, as long as somebody looks.

import { Table, endButton, text } from "./tables.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);

const address = ([host, port]) => (host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`);

function application({ application: found }) {
  if (!found) return "";
  return found.pid ? `${found.process} (${found.pid})` : address(found.peer);
}

const SLOW = { application: "the application here", path: "the path", peer: "the other end" };

export class Streams {
  constructor({ onKill }) {
    this.key = null;
    this.asking = false;
    this.sent = new Map(); // stream -> [bytes, when]: what its rate is made of
    const endCell = (cell) => {
      let shown;
      const button = endButton(cell, () => onKill(this.key, shown.stream));
      return (row) => {
        shown = row;
        button.setAttribute("aria-label", `End stream ${row.stream}…`);
      };
    };
    this.table = new Table($("streams"), [
      { title: "Stream", kind: "w-number number", value: (row) => row.stream, cell: text((row) => row.stream) },
      { title: "State", kind: "w-state", value: (row) => row.state, cell: text((row) => row.state) },
      { title: "Target", kind: "wide", value: (row) => row.target, cell: text((row) => row.target ?? "") },
      { title: "Application", value: application, cell: text(application) },
      { title: "Age", kind: "w-since number", value: (row) => row.age_s, cell: text((row) => words.duration(row.age_s)) },
      { title: "Rate", kind: "w-number number", value: (row) => row.rate, largestFirst: true, cell: text((row) => words.rate(row.rate)) },
      { title: "Sent", kind: "w-number number wide", value: (row) => row.sent_bytes, largestFirst: true, cell: text((row) => words.bytes(row.sent_bytes)) },
      { title: "Received", kind: "w-number number wide", value: (row) => row.received_bytes, largestFirst: true, cell: text((row) => words.bytes(row.received_bytes)) },
      { title: "Buffered", kind: "w-number number wide", value: buffered, largestFirst: true, cell: text((row) => words.bytes(buffered(row))) },
      { title: "Waits for", kind: "w-program wide", value: (row) => row.slow, cell: text((row) => SLOW[row.slow] ?? "") },
      { title: "End", unseen: true, kind: "w-end", cell: endCell },
    ], { matches: (row) => this.matches(row) });
    this.wanted = [];
    $("stream-filter").addEventListener("input", () => {
      this.wanted = $("stream-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
      this.table.show(this.table.rows);
    });
  }

  matches(row) {
    const found = [row.stream, row.state, row.target, application(row), SLOW[row.slow]].join(" ").toLowerCase();
    return this.wanted.every((word) => found.includes(word));
  }

  // Another session is looked at, or none (null).
  choose(key) {
    this.key = key;
    this.sent.clear();
    $("streams-part").hidden = true;
  }

  // Ask again, unless the answer before is still awaited.
  async look(row) {
    if (this.asking || !this.key) return;
    if (!row.session || row.state === "ended" || row.state === "unknown") {
      $("streams-part").hidden = true;
      return;
    }
    this.asking = true;
    const key = this.key;
    try {
      const answer = await fetch(`streams?key=${encodeURIComponent(key)}`);
      const said = answer.ok ? await answer.json() : { streams: null };
      if (key === this.key) this.show(said.streams, row.streams);
    } catch {
      // The page says by itself that mproxy web does not answer.
    } finally {
      this.asking = false;
    }
  }

  show(streams, count) {
    $("streams-part").hidden = !streams;
    if (!streams) return;
    const now = performance.now() / 1000;
    for (const row of streams) {
      row.key = String(row.stream);
      const moved = row.sent_bytes + row.received_bytes;
      const [before, at] = this.sent.get(row.key) ?? [null, 0];
      row.rate = before === null ? null : Math.max(0, moved - before) / (now - at);
      this.sent.set(row.key, [moved, now]);
    }
    if (this.sent.size > 2 * streams.length + 100) this.sent.clear();
    $("streams-shown").textContent = streams.length < count ? `the oldest ${streams.length} of ${count}` : "";
    this.table.show(streams);
  }
}

function buffered(row) {
  return row.unacknowledged_bytes + row.undelivered_bytes;
}
