// The quality card: what was measured on known answers when the bundle was built.

import { byId, drawn, element } from "./dom.js";

const MEASURES = [
  ["ndcg_at_10", "nDCG@10"], ["mrr_at_10", "MRR@10"], ["recall_at_10", "Recall@10"],
];

export function showQuality(collection) {
  const card = collection.quality;
  byId("quality").hidden = !card || !(card.stages.length || card.remarks.length);
  if (byId("quality").hidden) return;
  byId("card").replaceChildren(
    ...(card.stages.length ? figures(card) : []),
    ...card.remarks.map((remark) => element("p", {}, remark)),
  );
}

function figures(card) {
  const kinds = Object.entries(card.kinds).map(([kind, count]) => `${count} from ${kind}s`);
  const told =
    `${card.probes} questions with a known answer, drawn from the collection itself` +
    (kinds.length ? ` (${kinds.join(", ")})` : "") +
    ". Bars show nDCG@10, the line its 95 % interval.";
  return [element("p", {}, told), element("div", { class: "scroll" }, table(card))];
}

function table(card) {
  const head = ["stage", "", ...MEASURES.map(([, name]) => name), "questions"];
  const numbers = (place) => (place >= 2 ? { class: "number" } : {});
  return element(
    "table", {},
    element(
      "tr", {},
      ...head.map((name, place) => element("th", { scope: "col", ...numbers(place) }, name)),
    ),
    ...card.stages.map((stage) =>
      element(
        "tr", {},
        element("td", {}, stage.stage),
        element("td", {}, bar(stage.ndcg_at_10)),
        ...MEASURES.map(([key]) => element("td", { class: "number" }, figure(stage[key]))),
        element("td", { class: "number" }, `${stage.queries}`),
      ),
    ),
  );
}

const figure = (found) => (found ? found.value.toFixed(3) : "–");

function bar(found) {
  if (!found) return "";
  const at = (value) => (200 * value).toFixed(1);
  return drawn(
    "svg",
    {
      class: "bar", viewBox: "0 0 200 16", preserveAspectRatio: "none", role: "img",
      "aria-label": `${figure(found)}, from ${found.low.toFixed(3)} to ${found.high.toFixed(3)}`,
    },
    drawn("rect", { class: "track", width: 200, height: 10, y: 3 }),
    drawn("rect", { class: "value", width: at(found.value), height: 10, y: 3 }),
    drawn("path", { d: `M${at(found.low)},8 H${at(found.high)}` }),
  );
}
