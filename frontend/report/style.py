"""How the pages look: light and dark, wide and narrow, with the fonts that the reader's system has."""

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #15181e; --soft: #545b68; --rule: #d5d9e0; --shade: #f4f5f8; --critical: #c00d2b;
  --on-phase: #ffffff;
  --wait: #c4b3d6; --queue: #9aa3b2; --transfer: #5d6778; --fetch: #0d6a8c; --prefill: #2456b8;
  --decode: #a84d06; --compute: #0b6e57; --tool: #6d3fd1; --orchestrator: #6b6100; --client: #a3134f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12151a; --ink: #e9ebef; --soft: #a5adba; --rule: #343a45; --shade: #1b1f27; --critical: #ff6b7d;
    --on-phase: #0d1014;
    --wait: #6d5a85; --queue: #6b7586; --transfer: #a5adba; --fetch: #6fcbe8; --prefill: #8ab4ff;
    --decode: #ffb35c; --compute: #5fd3b4; --tool: #c4a7ff; --orchestrator: #d8cf6b; --client: #ff9cc2;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; overflow-wrap: break-word;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.75rem 0 .5rem; padding-top: .6rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.75rem 0 .35rem; }
p { margin: .35rem 0; max-width: 46rem; }
code, pre, .mono, svg text { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font-size: .9em; }
pre { font-size: .8rem; line-height: 1.45; padding: .75rem; background: var(--shade); white-space: pre; }
.soft { color: var(--soft); }
.scroll { overflow: auto; max-width: 100%; border: 1px solid var(--rule); background: var(--shade); }
.scroll pre { margin: 0; }
figure { margin: .75rem 0; }
figure .scroll { max-height: 52rem; }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .35rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; }
:focus-visible { outline: 3px solid var(--prefill); outline-offset: 2px; }
nav ul, ul.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.2rem; list-style: none; padding: 0; }
nav ul { margin: 1rem 0 0; }
a { color: var(--prefill); }

table { border-collapse: collapse; width: 100%; font-size: .875rem; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; }
th, td { border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--soft); }
td code[title] { color: var(--soft); }
.table { overflow-x: auto; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td ul { margin: 0; padding-left: 1.1rem; }
.yes { color: var(--critical); font-weight: 600; }
.share { width: 16rem; max-width: 100%; }
.share span { display: block; height: .9rem; margin-top: .25rem; min-width: 1px; }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .4rem; vertical-align: -.08rem; }
ul.legend { margin: .5rem 0; font-size: .875rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--rule); }
  td, td.number { display: flex; gap: .75rem; padding: .1rem 0; border: 0; }
  td.number { text-align: left; white-space: normal; }
  td::before { content: attr(data-label); flex: 0 0 6.5rem; color: var(--soft); }
  td > * { flex: 1 1 auto; min-width: 0; overflow-wrap: anywhere; }
}

svg { display: block; }
svg text { font-size: 11.5px; fill: var(--ink); }
svg.graph { margin: 0 auto; }
svg.gantt { width: 100%; min-width: 56rem; }
.box rect { fill: var(--paper); stroke: var(--soft); stroke-width: 1; }
.box.critical > rect { stroke: var(--critical); stroke-width: 2; }
.box .name { font-weight: 600; }
.box .detail { fill: var(--soft); }
.edge { fill: none; stroke: var(--soft); stroke-width: 1; opacity: .65; }
.edge.critical { stroke: var(--critical); stroke-width: 2.25; opacity: 1; }
.box rect.kind { stroke: none; }
.tick { stroke: var(--rule); }
text.tick { stroke: none; fill: var(--soft); font-size: 11px; }
line.lane { stroke: var(--soft); }
text.lane { font-weight: 700; font-size: 12px; }
.frame { fill: none; stroke: var(--critical); stroke-width: 2; }
text.inside { fill: var(--on-phase); font-size: 11px; }
text.beside { font-size: 11px; }
.critical text.beside { fill: var(--critical); font-weight: 600; }
.wait { fill: var(--wait); background: var(--wait); }
.queue { fill: var(--queue); background: var(--queue); }
.transfer { fill: var(--transfer); background: var(--transfer); }
.fetch { fill: var(--fetch); background: var(--fetch); }
.prefill { fill: var(--prefill); background: var(--prefill); }
.decode { fill: var(--decode); background: var(--decode); }
.compute { fill: var(--compute); background: var(--compute); }
.tool { fill: var(--tool); background: var(--tool); }
.orchestrator { fill: var(--orchestrator); background: var(--orchestrator); }
.client { fill: var(--client); background: var(--client); }
.box rect.kind.host { fill: var(--orchestrator); }
.box rect.kind.llm { fill: var(--prefill); }
.box rect.kind.embed, .box rect.kind.index, .box rect.kind.rerank { fill: var(--compute); }
.box rect.kind.tool { fill: var(--tool); }
.box rect.kind.control { fill: var(--queue); }
.swatch.host { background: var(--orchestrator); }
.swatch.llm { background: var(--prefill); }
.swatch.embed, .swatch.index, .swatch.rerank { background: var(--compute); }
.swatch.control { background: var(--queue); }
@media print { .scroll { max-height: none; overflow: visible; } }
"""
