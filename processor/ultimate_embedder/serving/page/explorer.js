// The page: a question goes to the service, its answer into columns.

import * as api from "./api.js";
import { clear, drawLines, show, walk } from "./columns.js";
import { openHit } from "./detail.js";
import { byId, element } from "./dom.js";
import { showQuality } from "./quality.js";

let known = [];
let running = null;
let starting = null;
let wanted = false; // a question was asked, maybe before the collections were known

const collection = () => known.find((one) => one.name === byId("collection").value);

// One start at a time: a second one's end would undo what was chosen meanwhile.
function start() {
  starting ||= begin().finally(() => {
    starting = null;
  });
  return starting;
}

async function begin() {
  try {
    known = await api.collections();
  } catch (problem) {
    report(problem);
    return;
  }
  byId("token-form").hidden = true;
  byId("problem").hidden = true;
  byId("collection").replaceChildren(
    ...known.map((one) => element("option", {}, one.name)),
  );
  byId("collection-field").hidden = known.length < 2;
  // Words still being written are not asked: Enter will, and one answer comes.
  const again = restore();
  enter();
  if (collection() && (again || wanted)) await ask();
}

// What is asked stands behind the #, which no browser sends to a server.
function restore() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const name = asked.get("collection");
  if (known.some((one) => one.name === name)) byId("collection").value = name;
  byId("query").value ||= asked.get("query") || "";
  return byId("query").value === asked.get("query");
}

function enter() {
  const chosen = collection();
  stop();
  if (!chosen) return;
  const folders = Object.entries(chosen.source_subdirs);
  byId("subdir").replaceChildren(
    element("option", { value: "" }, `all (${chosen.chunks.toLocaleString()} chunks)`),
    ...folders.map(([name, count]) =>
      element("option", { value: name }, `${name} (${count.toLocaleString()})`)),
  );
  for (const [box, stage] of [["sparse", "sparse"], ["rerank", "reranked"]]) {
    const why = chosen.missing[stage];
    byId(box).disabled = Boolean(why);
    byId(box).checked = !why;
    byId(box).parentElement.title = why || "";
  }
  showQuality(chosen);
  byId("status").textContent = "";
  clear();
}

function request() {
  const subdir = byId("subdir").value;
  return {
    query: byId("query").value,
    collection: collection().name,
    top_k: Number(byId("top-k").value),
    sparse: byId("sparse").checked,
    rerank: byId("rerank").checked,
    filters: subdir ? { source_subdir: subdir } : {},
    compare: true,
    highlight: true,
  };
}

// No answer to what was asked before may come in behind a newer one.
function stop() {
  if (running) running.abort();
  running = null;
  byId("columns").removeAttribute("aria-busy");
}

async function ask() {
  if (!byId("query").value.trim()) return;
  const chosen = collection();
  if (!chosen) {
    await start();
    return;
  }
  stop();
  running = new AbortController();
  const { signal } = running;
  const asked = request();
  const state = { collection: asked.collection, query: asked.query };
  history.replaceState(null, "", `#${new URLSearchParams(state)}`);
  byId("status").textContent = "Searching …";
  byId("columns").setAttribute("aria-busy", "true");
  try {
    const found = await api.search(asked, signal);
    if (signal.aborted) return;
    byId("problem").hidden = true;
    show(found, chosen, (hit) => openHit(hit, found.collection, report));
    byId("status").textContent = summary(found);
  } catch (problem) {
    if (signal.aborted) return;
    clear();
    report(problem);
  }
  byId("columns").removeAttribute("aria-busy");
}

function summary(found) {
  const { total } = found.milliseconds;
  const hits = found.hits.length;
  return `${hits} ${hits === 1 ? "chunk" : "chunks"} by ${found.stage} in ${total.toFixed(0)} ms`;
}

function report(problem) {
  byId("status").textContent = "";
  byId("problem").textContent = problem.message;
  byId("problem").hidden = false;
  if (problem.status === 401) {
    byId("token-form").hidden = false;
    byId("token").focus();
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = Boolean(byId("query").value.trim());
  ask();
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(byId("token").value);
  start();
});
byId("collection").addEventListener("change", () => {
  enter();
  ask();
});
for (const id of ["subdir", "top-k", "sparse", "rerank"]) {
  byId(id).addEventListener("change", ask);
}
addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
  const writing = ["INPUT", "SELECT", "TEXTAREA"].includes(document.activeElement?.tagName);
  if (event.key === "/" && !writing && !byId("detail").open) {
    event.preventDefault();
    byId("query").focus();
    byId("query").select();
  } else if (event.key === "ArrowDown" && document.activeElement === byId("query")) {
    const first = [...document.querySelectorAll(".hit")].find((hit) => hit.offsetParent);
    if (first) {
      event.preventDefault();
      first.focus();
    }
  } else if (!byId("detail").open) {
    walk(event);
  }
});
byId("quality").addEventListener("toggle", drawLines);

start();
