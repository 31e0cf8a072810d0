// Tables: rows that are kept while they are told anew, sorted by a column, cut where they get long.

import { element, setAttribute, setText } from "./element.js";

const STEP = 100;

// A column is {name, of, value, help, kind}: `of` makes a text or an element of a row, `value` what
// it is sorted by. A column without `value` is not sorted by.
export function makeTable(caption, columns, { sortBy = null, falling = false, empty = "None." } = {}) {
  const body = element("tbody", { role: "rowgroup" });
  const heads = columns.map((column, at) => {
    const head = element("th", { scope: "col", role: "columnheader", class: column.kind, title: column.help });
    if (column.value) {
      const button = element("button", { type: "button", class: "sort" }, column.name);
      button.addEventListener("click", () => {
        table.falling = table.sortBy === at ? !table.falling : column.kind === "number";
        table.sortBy = at;
        drawTable(table, table.items);
      });
      head.append(button);
    } else head.append(column.name);
    return head;
  });
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  const more = element("button", { type: "button", class: "more", hidden: "" });
  more.addEventListener("click", () => {
    table.most += 5 * STEP;
    drawTable(table, table.items);
  });
  const none = element("p", { class: "none", hidden: "" }, empty);
  const grid = element("table", { role: "table" }, element("caption", { class: "unseen" }, caption), head, body);
  const root = element("div", { class: "table" }, grid, none, more);
  const table = {
    root, grid, body, heads, more, none, columns, sortBy, falling,
    rows: new Map(), items: [], most: STEP,
  };
  return table;
}

// Each item has a `key` of its own.
export function drawTable(table, items) {
  table.items = items;
  const shown = sorted(table, items).slice(0, table.most);
  const focused = table.body.contains(document.activeElement) ? document.activeElement : null;
  const unused = new Set(table.rows.keys());
  let next = table.body.firstChild;
  for (const item of shown) {
    let row = table.rows.get(item.key);
    if (!row) {
      row = makeRow(table);
      table.rows.set(item.key, row);
    }
    unused.delete(item.key);
    table.columns.forEach((column, at) => setCell(row.cells[at], column.of(item)));
    if (row.root === next) next = next.nextSibling;
    else table.body.insertBefore(row.root, next);
  }
  for (const key of unused) {
    table.rows.get(key).root.remove();
    table.rows.delete(key);
  }
  // A row that has moved has lost the focus.
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  table.heads.forEach((head, at) => {
    const order = at !== table.sortBy ? "none" : table.falling ? "descending" : "ascending";
    if (table.columns[at].value) setAttribute(head, "aria-sort", order);
  });
  table.grid.hidden = items.length === 0;
  table.none.hidden = items.length > 0;
  const rest = items.length - shown.length;
  table.more.hidden = rest <= 0;
  setText(table.more, `Show ${Math.min(rest, 5 * STEP)} more of ${rest}`);
}

function sorted(table, items) {
  const column = table.columns[table.sortBy];
  if (!column) return items;
  const sign = table.falling ? -1 : 1;
  const compare = (a, b) => (typeof a === "number" ? a - b : names.compare(a, b));
  return [...items].sort((a, b) => sign * compare(column.value(a), column.value(b)));
}

// `w2` before `w10`.
const names = new Intl.Collator("en", { numeric: true });

function makeRow(table) {
  const cells = table.columns.map((column) =>
    element("td", { role: "cell", class: column.kind, "data-label": column.name }));
  return { root: element("tr", { role: "row" }, ...cells), cells };
}

function setCell(cell, content) {
  if (typeof content === "string") return setText(cell, content);
  const before = cell.firstChild;
  // Elements are exchanged only if they would look different.
  if (!before || before.nodeType !== 1 || !before.isEqualNode(content)) cell.replaceChildren(content);
}
