// One chunk: its whole text, where it stands in its source, and its neighbours.

import * as api from "./api.js";
import { byId, element, marked, titleOf } from "./dom.js";

// Counts what was opened: an answer that comes after another was opened is dropped.
let opened = 0;

export function openHit(hit, collection, report) {
  const neighbours = { before: null, after: null };
  fill(hit, collection, neighbours, report);
  const dialog = byId("detail");
  if (!dialog.open) dialog.showModal();
  load(hit.chunk_id, collection, hit, report);
}

// `hit` is what was found; its neighbours have no marks and no ranks.
async function load(id, collection, hit, report) {
  opened += 1;
  const mine = opened;
  const dialog = byId("detail");
  let found;
  try {
    found = await api.chunk(id, collection);
  } catch (problem) {
    if (mine !== opened || !dialog.open) return;
    dialog.close();
    report(problem);
    return;
  }
  if (mine !== opened || !dialog.open) return;
  const shown = hit.chunk_id === id ? hit : { ...found, highlights: [], stages: {} };
  fill(shown, collection, found, report, hit);
  if (document.activeElement?.disabled || document.activeElement === document.body) {
    byId("detail-text").focus();
  }
}

function fill(hit, collection, neighbours, report, found = hit) {
  const fields = hit.metadata || {};
  byId("detail-title").textContent = titleOf(hit);
  byId("detail-place").textContent = place(hit, fields, neighbours);
  byId("detail-text").replaceChildren(
    ...(hit.text === null ? ["This bundle holds no texts."] : marked(hit.text, hit.highlights)),
  );
  byId("detail-metadata").textContent = JSON.stringify(fields, null, 2);
  showSource(neighbours);
  showStages(hit.stages || {});
  for (const side of ["before", "after"]) {
    const button = byId(side);
    button.disabled = !neighbours[side];
    button.onclick = () => load(neighbours[side], collection, found, report);
  }
}

function place(hit, fields, { number, of }) {
  const parts = [fields.source || hit.chunk_id];
  const sections = [fields.section_path || []].flat();
  if (sections.length) parts.push(sections.join(" › "));
  if (of) parts.push(`chunk ${number} of ${of}`);
  if (Number.isInteger(fields.start_char) && Number.isInteger(fields.end_char)) {
    parts.push(`characters ${fields.start_char} to ${fields.end_char}`);
  }
  return parts.join(" · ");
}

// Where in its source: the share of the file's chunks before it.
function showSource({ number, of }) {
  const bar = byId("detail-source");
  bar.hidden = !of;
  if (bar.hidden) return;
  const span = element("span");
  span.style.left = `${(100 * (number - 1)) / of}%`;
  span.style.width = `${100 / of}%`;
  bar.replaceChildren(span);
  bar.setAttribute("aria-label", `Chunk ${number} of ${of} in its file`);
  bar.title = `chunk ${number} of ${of} in its file`;
}

function showStages(stages) {
  const table = byId("detail-stages");
  const names = Object.keys(stages);
  table.hidden = !names.length;
  table.replaceChildren(
    element(
      "tr", {}, element("th", { scope: "col" }, "stage"),
      element("th", { scope: "col", class: "number" }, "rank"),
      element("th", { scope: "col", class: "number" }, "score"),
    ),
    ...names.map((name) =>
      element(
        "tr", {}, element("td", {}, name),
        element("td", { class: "number" }, `${stages[name].rank}`),
        element("td", { class: "number" }, stages[name].score.toFixed(4)),
      ),
    ),
  );
}
