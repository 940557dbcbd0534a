// One column a stage, and lines that follow a chunk from column to column.

import { byId, drawn, element, marked, titleOf } from "./dom.js";

export const STAGES = ["dense", "sparse", "fused", "reranked"];
const SNIPPET = 220;
const narrow = matchMedia("(max-width: 900px)");

let chosen = null;
let opener = null; // the chunk whose text was opened last

export function show(found, collection, open) {
  const columns = STAGES.map((stage) => column(stage, found, collection, open));
  const keepFocus = focusKeeper();
  byId("columns").replaceChildren(...columns);
  const present = STAGES.filter((stage) => found.rankings[stage]);
  choose(present.includes(chosen) ? chosen : found.stage);
  showTabs(found);
  drawLines();
  keepFocus();
}

// Who had walked into the chunks, or opened one, has a place there afterwards too.
function focusKeeper() {
  const detail = byId("detail");
  const hit = detail.open ? opener : document.activeElement;
  if (!hit?.matches(".column .hit")) return () => {};
  const place = { stage: hit.closest(".column").dataset.stage, id: hit.dataset.id };
  return () => {
    if (!detail.open) focusAgain(place);
    else detail.addEventListener("close", () => focusAgain(place), { once: true });
  };
}

function focusAgain({ stage, id }) {
  const shown = [...document.querySelectorAll(".hit")].filter((hit) => hit.offsetParent);
  const column = shown.filter((hit) => hit.closest(".column").dataset.stage === stage);
  const there = column.find((hit) => hit.dataset.id === id) || column[0] || shown[0];
  (there || byId("query")).focus();
}

export function clear() {
  const keepFocus = focusKeeper();
  byId("columns").replaceChildren();
  byId("lines").replaceChildren();
  byId("tabs").hidden = true;
  keepFocus();
}

function column(stage, found, collection, open) {
  const hits = found.rankings[stage];
  const took = found.milliseconds[stage];
  const label = `${stage}, ${hits ? hits.length : 0} chunks`;
  const box = element("section", { class: "column", "data-stage": stage, "aria-label": label });
  const time = took === undefined ? "" : ` · ${took.toFixed(took < 10 ? 1 : 0)} ms`;
  box.append(
    element("h2", {}, stage),
    element("p", { class: "with" }, (collection.stages[stage] || "") + time),
  );
  if (!hits) {
    const why = found.missing[stage] || collection.missing[stage] || "Not asked for.";
    box.append(element("p", { class: "absent" }, why));
  } else if (!hits.length) {
    box.append(element("p", { class: "absent" }, "Nothing was found."));
  } else {
    const items = hits.map((hit) => element("li", {}, card(hit, stage, open)));
    box.append(element("ol", {}, ...items));
  }
  return box;
}

function card(hit, stage, open) {
  const moved = movement(hit, stage);
  const made = element(
    "button",
    {
      type: "button", class: "hit", "data-id": hit.chunk_id,
      "aria-label": `${stage} rank ${hit.rank}: ${titleOf(hit)}. Score ${hit.score.toFixed(3)}. ${moved}`,
      title: hit.chunk_id,
    },
    element(
      "span", { class: "top" },
      element("span", { class: "rank" }, `${hit.rank}`),
      element("span", {}, hit.score.toFixed(3)),
      element("span", { class: "moved" }, moved),
    ),
    element("span", { class: "title" }, titleOf(hit)),
    element("span", { class: "snippet" }, ...snippet(hit)),
  );
  made.addEventListener("click", () => {
    opener = made;
    open(hit);
  });
  for (const name of ["mouseenter", "focus"]) {
    made.addEventListener(name, () => follow(hit.chunk_id));
  }
  for (const name of ["mouseleave", "blur"]) {
    made.addEventListener(name, () => follow(null));
  }
  return made;
}

// A snippet starts with a word a little before the first one that was found.
function snippet(hit) {
  if (hit.text === null) return ["This bundle holds no texts."];
  const first = hit.highlights.length ? hit.highlights[0][0] : 0;
  const before = Array.from(hit.text).slice(0, first);
  const space = before.findIndex((one, place) => place >= first - 60 && /\s/.test(one));
  const from = first <= 60 ? 0 : space < 0 ? first : space + 1;
  const parts = marked(hit.text, hit.highlights, from, from + SNIPPET);
  return from ? ["… ", ...parts] : parts;
}

// Where the stages before had put it: what each stage contributes.
function movement(hit, stage) {
  const compared = { fused: ["dense", "sparse"], reranked: ["fused"] }[stage] || [];
  return compared
    .map((one) => `${one} ${hit.stages[one] ? hit.stages[one].rank : "–"}`)
    .join(", ");
}

function follow(id) {
  for (const found of document.querySelectorAll("[data-id]")) {
    found.classList.toggle("on", id !== null && found.dataset.id === id);
  }
}

export function drawLines() {
  const svg = byId("lines");
  svg.replaceChildren();
  if (narrow.matches) return;
  const origin = byId("rankings").getBoundingClientRect();
  let before = new Map();
  for (const column of document.querySelectorAll(".column")) {
    const now = new Map();
    for (const hit of column.querySelectorAll(".hit")) {
      const box = hit.getBoundingClientRect();
      const y = box.top + box.height / 2 - origin.top;
      now.set(hit.dataset.id, { left: box.left - origin.left, right: box.right - origin.left, y });
    }
    for (const [id, to] of now) {
      const from = before.get(id);
      if (from) svg.append(line(id, from, to));
    }
    // A chunk that a column lacks keeps its line's start.
    before = new Map([...before, ...now]);
  }
}

function line(id, from, to) {
  const middle = (from.right + to.left) / 2;
  const path = `M${from.right},${from.y} C${middle},${from.y} ${middle},${to.y} ${to.left},${to.y}`;
  return drawn("path", { d: path, "data-id": id });
}

function showTabs(found) {
  const tabs = byId("tabs");
  tabs.hidden = false;
  tabs.replaceChildren(...STAGES.map((stage) => {
    const tab = element("button", { type: "button", "data-tab": stage }, stage);
    tab.disabled = !found.rankings[stage];
    tab.addEventListener("click", () => choose(stage));
    return tab;
  }));
  choose(chosen);
}

function choose(stage) {
  chosen = stage;
  for (const column of document.querySelectorAll(".column")) {
    column.classList.toggle("chosen", column.dataset.stage === stage);
  }
  for (const tab of document.querySelectorAll("[data-tab]")) {
    tab.setAttribute("aria-pressed", String(tab.dataset.tab === stage));
  }
}

const STEPS = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };

// Arrow keys walk over the chunks: down a column, or to the same chunk in the next.
export function walk(event) {
  const step = STEPS[event.key];
  const here = document.activeElement;
  if (!step || !here || !here.classList.contains("hit")) return;
  event.preventDefault();
  const columns = [...document.querySelectorAll(".column")]
    .filter((column) => column.querySelector(".hit") && column.offsetParent !== null);
  const at = columns.findIndex((column) => column.contains(here));
  const column = columns[at + step[0]];
  if (!column) return;
  const hits = [...column.querySelectorAll(".hit")];
  const same = hits.find((hit) => hit.dataset.id === here.dataset.id);
  const place = [...columns[at].querySelectorAll(".hit")].indexOf(here) + step[1];
  if (place < 0) byId("query").focus();
  else (step[0] && same ? same : hits[Math.min(place, hits.length - 1)]).focus();
}

addEventListener("resize", drawLines);
