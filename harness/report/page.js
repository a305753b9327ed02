// The table of all cells: 25 rows a page, sorted and filtered. Everything becomes a text node, so nothing is markup.
// What stands in <details data-later> is packed until one of them is opened: the builder's own, escaped markup.
"use strict";
const PAGE = 25;
const MOST_LETTERS = 15; // of a text that is not broken on paper; an id is longer
const CALM = { ok: "", pruned: "off", skipped: "off", unsupported: "off" }; // was not tried, or needs no remedy
const byId = (id) => document.getElementById(id);
const state = { rows: [], sort: -1, up: true, first: 0 };
let data = { rows: [] }; // until it is unpacked
let columns = [];
let index = new Map();

// Counts as they are; what was measured with three digits, and whole from 100 on.
function number(value, isCount) {
  if (value === null || value === undefined) return "";
  if (isCount) return value.toLocaleString("en-US");
  return Math.abs(value) >= 99.95 ? Math.round(value).toLocaleString("en-US") : value.toPrecision(3);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function cell(column, value) {
  if (column.kind === "count" || column.kind === "number") {
    return element("td", number(value, column.kind === "count"), "number");
  }
  if (column.kind === "interval") {
    const made = element("td", value ? number(value[0]) : "", "number");
    if (value) made.append(" ", element("span", "[" + number(value[1]) + ", " + number(value[2]) + "]", "between"));
    return made;
  }
  const text = value === null || value === undefined ? "" : String(value);
  if (column.key === "status") return element("td", text, CALM[text] ?? "bad");
  return element("td", text, column.key === "notes" ? "wide" : text.length > MOST_LETTERS ? "" : "word");
}

function plainValue(value) {
  return Array.isArray(value) ? value[0] : value;
}

function matches(row, words) {
  return words.every((word) => {
    const at = word.indexOf("=");
    const column = at > 0 ? index.get(word.slice(0, at)) : undefined;
    if (column !== undefined) {
      const value = plainValue(row[column]);
      return word.slice(at + 1).split("|").includes(String(value === null ? "" : value).toLowerCase());
    }
    return row.some((value) => typeof value === "string" && value.toLowerCase().includes(word));
  });
}

// Why no cell is left: a column or a value that there is not.
function hint(words) {
  if (state.rows.length || !data.rows.length) return "";
  const word = words.find((one) => !data.rows.some((row) => matches(row, [one])));
  if (word === undefined) return "Every word has cells, but no cell has all of them.";
  const at = word.indexOf("=");
  if (at < 1) return `No cell's text has "${word}".`;
  const name = word.slice(0, at);
  if (!index.has(name)) {
    return `No column is named "${name}"; nearest: ${nearest(name)}. All: ${columns.map((one) => one.key).join(", ")}.`;
  }
  const column = index.get(name);
  const values = [...new Set(data.rows.map((row) => plainValue(row[column])))].filter((value) => value !== null);
  const more = values.length > 9 ? " and more" : "";
  return `No cell has ${word}; ${columns[column].key} is ${values.slice(0, 9).join(", ") || "always empty"}${more}.`;
}

// The columns whose names share most pairs of letters with it.
function nearest(name) {
  const pairs = (text) => [...text].slice(1).map((letter, i) => text[i] + letter);
  const own = new Set(pairs(name));
  const likeness = (other) => pairs(other).filter((pair) => own.has(pair)).length / (own.size + other.length);
  const names = columns.map((one) => one.key).sort((a, b) => likeness(b) - likeness(a));
  return names.slice(0, 3).join(", ");
}

function compare(a, b) {
  const left = plainValue(a[state.sort]);
  const right = plainValue(b[state.sort]);
  if (left === null || right === null) return (left === null) - (right === null); // what is absent comes last
  const order = typeof left === "number" ? left - right : left < right ? -1 : left > right ? 1 : 0;
  return state.up ? order : -order;
}

function select() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  state.rows = data.rows.filter((row) => matches(row, words));
  if (state.sort >= 0) state.rows.sort(compare);
  state.first = 0;
  show();
  byId("hint").textContent = hint(words);
}

function show() {
  const last = Math.min(state.first + PAGE, state.rows.length);
  const body = document.createElement("tbody");
  for (const row of state.rows.slice(state.first, last)) {
    const line = element("tr");
    columns.forEach((column, i) => line.append(cell(column, row[i])));
    body.append(line);
  }
  byId("table").tBodies[0].replaceWith(body);
  const range = state.rows.length ? state.first + 1 + " to " + last + " of " : "";
  byId("count").textContent = range + state.rows.length + " cells";
  byId("previous").disabled = state.first === 0;
  byId("next").disabled = last >= state.rows.length;
}

function head() {
  const line = element("tr");
  columns.forEach((column, i) => {
    const made = element("th", undefined, column.kind === "text" ? "" : "number");
    made.scope = "col";
    made.dataset.label = column.label; // on paper: no button is repeated on a table's further sheets
    const button = element("button", column.label);
    button.type = "button";
    button.title = column.title;
    button.addEventListener("click", () => {
      state.up = state.sort === i ? !state.up : column.kind === "text" || column.kind === "count";
      state.sort = i;
      for (const other of line.children) other.removeAttribute("aria-sort");
      made.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      select();
    });
    made.append(button);
    line.append(made);
  });
  byId("table").tHead.replaceChildren(line);
}

function copy(text, button) {
  const done = () => { button.textContent = "Copied"; };
  const byHand = () => { // a page opened from disk may have no clipboard: select it, so that the user's own keys copy it
    getSelection().selectAllChildren(byId(button.dataset.copy));
    button.textContent = "Selected";
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
  else byHand();
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

let unpacked; // a promise of what the folded parts hold
async function unfold(details) {
  if (!details.open || details.dataset.later === undefined) return;
  const number = details.dataset.later;
  delete details.dataset.later;
  unpacked ??= unpack("later");
  details.insertAdjacentHTML("beforeend", (await unpacked)[number]);
}

async function fill() {
  data = await unpack("data");
  columns = data.columns;
  columns.forEach((column, i) => {
    if (!column.texts) return;
    for (const row of data.rows) if (row[i] !== null) row[i] = column.texts[row[i]];
  });
  const heading = (column) => column.label.toLowerCase().replaceAll(" ", "_");
  index = new Map([heading, (column) => column.key].flatMap((named) => columns.map((column, i) => [named(column), i])));
  head();
  select();
}

byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", select);
byId("previous").addEventListener("click", () => { state.first -= PAGE; show(); });
byId("next").addEventListener("click", () => { state.first += PAGE; show(); });
document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-filter]");
  if (link) { byId("filter").value = link.dataset.filter; select(); }
});
for (const details of document.querySelectorAll("[data-later]")) {
  details.addEventListener("toggle", () => unfold(details));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(byId(button.dataset.copy).textContent, button));
}
fill();
