// Elements and texts. Every text of a document or a query enters the page as a text
// node, so markup within it stays text.

export const byId = (id) => document.getElementById(id);

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Spans count code points, as Python does; a JavaScript string counts UTF-16 units.
export function marked(text, spans, from = 0, to = Infinity) {
  const points = Array.from(text);
  const end = Math.min(to, points.length);
  const parts = [];
  let place = from;
  for (const [start, stop] of spans) {
    if (stop <= place || start >= end) continue;
    const first = Math.max(start, place);
    parts.push(points.slice(place, first).join(""));
    const last = Math.min(stop, end);
    parts.push(element("mark", {}, points.slice(first, last).join("")));
    place = last;
  }
  parts.push(points.slice(place, end).join(""));
  return parts;
}

export function titleOf(hit) {
  const fields = hit.metadata || {};
  return fields.heading_text || fields.filename || hit.chunk_id;
}
