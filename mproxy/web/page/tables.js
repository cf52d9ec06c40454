// A table of any number of rows, of which only those that are seen are drawn. It stays a real table: rows have their
// true numbers for a screen reader, headings are buttons that sort.

const BESIDE = 6; // rows drawn above and below the window, so that tabbing finds the next ones

export class Table {
  // columns: {title, value: (row) => what it sorts by, cell: (td) => (row) => fills it, kind: class names,
  //           unseen: the title is for screen readers alone}
  constructor(table, columns, { matches = () => true, onDrawn = () => {} } = {}) {
    this.table = table;
    this.scroll = table.parentElement;
    this.body = table.tBodies[0];
    this.columns = columns;
    this.matches = matches;
    this.onDrawn = onDrawn;
    this.rows = [];
    this.view = [];
    this.drawn = new Map(); // key -> {tr, fill}
    this.by = columns[0];
    this.down = false;
    this.rowHeight = 44;
    this.makeHead();
    [this.above, this.below] = [this.makeSpacer(), this.makeSpacer()];
    this.body.append(this.above, this.below);
    this.scroll.addEventListener("scroll", () => this.later(), { passive: true });
    addEventListener("resize", () => this.later());
  }

  makeHead() {
    const head = this.table.tHead.insertRow();
    this.table.tHead.rows[0].setAttribute("aria-rowindex", "1");
    for (const column of this.columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.className = column.kind ?? "";
      if (column.value) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = column.title;
        button.addEventListener("click", () => this.sortBy(column));
        th.setAttribute("aria-sort", "none");
        th.append(button);
      } else {
        const title = document.createElement("span");
        title.className = column.unseen ? "unseen" : "";
        title.textContent = column.title;
        th.append(title);
      }
      column.th = th;
      head.append(th);
    }
  }

  makeSpacer() {
    const spacer = document.createElement("tr");
    spacer.className = "spacer";
    spacer.setAttribute("aria-hidden", "true");
    const cell = spacer.insertCell();
    cell.colSpan = this.columns.length;
    return spacer;
  }

  sortBy(column) {
    this.down = this.by === column ? !this.down : Boolean(column.largestFirst);
    this.by = column;
    this.show(this.rows);
  }

  // The rows there are by now, in any order.
  show(rows) {
    this.rows = rows;
    const sign = this.down ? -1 : 1;
    const value = this.by.value;
    this.view = rows.filter(this.matches).map((row) => [value(row), row]);
    this.view.sort(([a, rowA], [b, rowB]) => sign * compare(a, b) || compare(rowA.key, rowB.key));
    this.view = this.view.map(([, row]) => row);
    this.table.setAttribute("aria-rowcount", String(this.view.length + 1));
    for (const column of this.columns) {
      if (column.value) {
        const order = column !== this.by ? "none" : this.down ? "descending" : "ascending";
        column.th.setAttribute("aria-sort", order);
      }
    }
    this.draw();
  }

  later() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      this.draw();
    });
  }

  draw() {
    const height = this.rowHeight;
    const focused = document.activeElement;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / height) - BESIDE);
    const count = Math.ceil(this.scroll.clientHeight / height) + 2 * BESIDE;
    const from = Math.min(first, Math.max(0, this.view.length - count));
    const seen = this.view.slice(from, from + count);
    const keys = new Set(seen.map((row) => row.key));
    for (const [key, { tr }] of this.drawn) {
      if (!keys.has(key)) {
        tr.remove();
        this.drawn.delete(key);
      }
    }
    setHeight(this.above, from * height);
    setHeight(this.below, (this.view.length - from - seen.length) * height);
    let place = this.above.nextSibling;
    seen.forEach((row, index) => {
      const drawn = this.drawn.get(row.key) ?? this.makeRow(row);
      drawn.tr.setAttribute("aria-rowindex", String(from + index + 2));
      if (drawn.tr === place) place = place.nextSibling;
      else this.body.insertBefore(drawn.tr, place);
      for (const fill of drawn.fill) fill(row);
    });
    if (focused !== document.activeElement && this.body.contains(focused)) focused.focus({ preventScroll: true });
    const measured = this.drawn.size ? seen[0] && this.drawn.get(seen[0].key).tr.getBoundingClientRect().height : 0;
    if (measured && Math.abs(measured - height) > 0.5) {
      this.rowHeight = measured; // the reader's text is larger
      this.later();
    }
    this.onDrawn(seen);
  }

  makeRow(row) {
    const tr = document.createElement("tr");
    tr.dataset.key = row.key;
    const fill = this.columns.map((column, index) => {
      const cell = document.createElement(index ? "td" : "th");
      if (!index) cell.scope = "row";
      cell.className = column.kind ?? "";
      tr.append(cell);
      return column.cell(cell);
    });
    const drawn = { tr, fill };
    this.drawn.set(row.key, drawn);
    return drawn;
  }
}

function setHeight(spacer, height) {
  spacer.hidden = height <= 0;
  spacer.cells[0].style.height = `${height}px`;
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined || a === "") return -1;
  if (b === null || b === undefined || b === "") return 1;
  return typeof a === "string" && typeof b === "string" ? a.localeCompare(b) : a < b ? -1 : 1;
}

// The button at the end of a row whose click asks whether that is to be ended.
export const endButton = (cell, onClick) => {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "danger";
  button.textContent = "End…";
  cell.append(button);
  button.addEventListener("click", onClick);
  return button;
};

// A cell with the text that `say` makes of a row; the whole of it on hovering, as it may be cut.
export const text = (say) => (cell) => (row) => {
  const words = String(say(row) ?? "");
  if (cell.textContent !== words) {
    cell.textContent = words;
    cell.title = words;
  }
};
