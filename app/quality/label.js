"use strict";

const find = (id) => document.getElementById(id);
const source = find("rows");
const rows = JSON.parse(source.textContent);
const store = `winnow-labels-${source.dataset.name}`;
const kept = JSON.parse(localStorage.getItem(store) ?? "{}");
const key = (row) => JSON.stringify([row.query_id, row.document_id]);

for (const row of rows) if (key(row) in kept) row.relevance = kept[key(row)];

const firstOpen = () => {
  const place = rows.findIndex((row) => row.relevance === null);
  return place < 0 ? 0 : place;
};

let at = firstOpen();

const words = (text) => new Set(text.toLowerCase().match(/[\p{L}\p{N}]{3,}/gu) ?? []);

const highlighted = (text, wanted) =>
  text.split(/([\p{L}\p{N}]+)/u).map((part) => {
    if (!wanted.has(part.toLowerCase())) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });

const show = () => {
  const row = rows[at];
  const same = rows.filter((other) => other.query_id === row.query_id);
  const wanted = words(row.query);
  find("query").textContent = row.query;
  find("title").replaceChildren(...highlighted(row.title, wanted));
  find("text").replaceChildren(...highlighted(row.text, wanted));
  find("place").textContent = `Document ${same.indexOf(row) + 1} of ${same.length} for this question`;
  for (const button of document.querySelectorAll("[data-grade]"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.grade) === row.relevance));
  const done = rows.filter((other) => other.relevance !== null).length;
  document.querySelector("progress").value = done;
  find("count").textContent = `${done} of ${rows.length}`;
};

const move = (steps) => {
  at = Math.min(Math.max(at + steps, 0), rows.length - 1);
  find("text").parentElement.scrollTop = 0;
  show();
};

const label = (grade) => {
  rows[at].relevance = grade;
  kept[key(rows[at])] = grade;
  localStorage.setItem(store, JSON.stringify(kept));
  move(grade === null ? 0 : 1);
};

const goToOpen = () => {
  at = firstOpen();
  move(0);
};

const save = () => {
  const lines = rows.map((row) => `${JSON.stringify(row)}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
  link.download = "labels.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
};

const keys = {
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  Backspace: () => label(null),
  u: goToOpen,
  s: save,
};

for (const button of document.querySelectorAll("[data-grade]")) {
  const grade = Number(button.dataset.grade);
  button.addEventListener("click", () => label(grade));
  keys[grade] = () => label(grade);
}

const buttons = { back: keys.ArrowLeft, next: keys.ArrowRight, clear: keys.Backspace, open: goToOpen, save };
for (const [id, does] of Object.entries(buttons)) find(id).addEventListener("click", does);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});

show();
