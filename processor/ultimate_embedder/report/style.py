"""The style sheet of a report: light, dark, a phone's width and paper."""

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #ffffff; --ink: #1b2330;
  --quiet: #5a6575; --rule: #dfe3ea; --track: #eceff4; --tone0: #2f6fd0;
  --tone1: #c2571a; --tone2: #1f8a70; --tone3: #8a4fbf; --limit: #b3261e;
  --warn: #fff4e0; --warn-rule: #c77d0a; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1a2029;
  --ink: #e6eaf0; --quiet: #9aa6b6; --rule: #2d3643; --track: #262e3a; --tone0: #6aa5ff;
  --tone1: #f0955a; --tone2: #4fc4a4; --tone3: #c094f0; --limit: #ff8a80;
  --warn: #2c2415; --warn-rule: #d99a3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
p { margin: 6px 0; }
.remark, .lead { color: var(--quiet); font-size: 0.9rem; overflow-wrap: anywhere; }
.tiles { display: grid; gap: 10px; margin: 18px 0 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; padding: 12px 14px; min-width: 0; }
.tile dt { color: var(--quiet); font-size: 0.82rem; }
.tile dd { margin: 0; font-size: 1.3rem; font-weight: 600; overflow-wrap: anywhere; }
section > .card { max-width: 520px; }
div.grid { display: grid; gap: 12px; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
figure { margin: 0; }
figcaption { font-weight: 600; margin-bottom: 8px; font-size: 0.95rem; }
svg { display: block; width: 100%; max-width: 480px; height: auto; overflow: visible;
  font-size: 12px; }
svg text { fill: var(--ink); }
svg .tick { fill: var(--quiet); font-size: 11px; }
svg .value { font-weight: 600; }
.track { fill: var(--track); }
.tone0 { fill: var(--tone0); } .tone1 { fill: var(--tone1); }
.tone2 { fill: var(--tone2); } .tone3 { fill: var(--tone3); }
.faint { opacity: 0.45; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.tone0 { stroke: var(--tone0); } .line.tone1 { stroke: var(--tone1); }
.line.tone2 { stroke: var(--tone2); } .line.tone3 { stroke: var(--tone3); }
line.grid { stroke: var(--rule); stroke-width: 1; }
line.axis { stroke: var(--quiet); stroke-width: 1; }
line.limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 4 3; }
.warnings { list-style: none; margin: 0; padding: 0; display: grid; gap: 8px; }
.warnings li { background: var(--warn); border-left: 4px solid var(--warn-rule);
  border-radius: 6px; padding: 8px 12px; overflow-wrap: anywhere; }
.cure { display: block; color: var(--quiet); }
.scroll { overflow-x: auto; margin: 10px 0; background: var(--card);
  border: 1px solid var(--rule); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; }
caption { text-align: left; padding: 8px 12px; color: var(--quiet);
  font-size: 0.85rem; }
th, td { text-align: left; padding: 6px 12px; border-top: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: anywhere; }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; min-width: 9em; }
td { min-width: 6.5em; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (max-width: 480px) { th, td { padding: 6px 8px; } tbody th { min-width: 6em; }
  td.number { min-width: 0; } }
details { margin: 10px 0; }
summary { cursor: pointer; padding: 8px 0; font-weight: 600; }
:focus-visible { outline: 2px solid var(--tone0); outline-offset: 2px; }
@media print { :root { --ground: #fff; --card: #fff; --ink: #000; --quiet: #444; }
  main { max-width: none; padding: 0; } figure, .tile, tr { break-inside: avoid; }
  h2 { break-after: avoid; } .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
