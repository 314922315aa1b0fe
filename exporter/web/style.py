"""The style of the landing page: for a phone and a desk, by day and by night."""

from __future__ import annotations

# By name: what is written on the page, and the grounds it is written on. A test holds every pair
# to the contrast of 4.5 to 1 that WCAG 2.1 asks for.
DAY = {
    "ground": "#ffffff",
    "card": "#f6f8fa",
    "line": "#d0d7de",
    "text": "#1f2328",
    "dim": "#57606a",
    "link": "#0550ae",
    "ok": "#116329",
    "partly": "#7d4e00",
    "failed": "#a40e26",
}
NIGHT = {
    "ground": "#0d1117",
    "card": "#161b22",
    "line": "#30363d",
    "text": "#e6edf3",
    "dim": "#9da7b1",
    "link": "#79c0ff",
    "ok": "#56d364",
    "partly": "#e3b341",
    "failed": "#ff9492",
}


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(DAY)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(NIGHT)} }} }}\n"
    """
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  color: var(--text); background: var(--ground); margin: 0 auto; max-width: 60rem;
  padding: 1.5rem 1rem 3rem; overflow-wrap: anywhere; }
a { color: var(--link); text-underline-offset: .15em; }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
h1 { font-size: 1.35rem; line-height: 1.2; margin: 0; }
h1 small { color: var(--dim); font-weight: 400; font-size: 1rem; }
h2 { font-size: 1.05rem; margin: 0; }
h3 { font-size: .95rem; margin: 0; color: var(--failed); }
p, ul, dl { margin: .35rem 0 0; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; }
.verdict { font-size: 1.15rem; font-weight: 600; margin: .35rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: baseline; color: var(--dim);
  font-size: .95rem; }
nav a { padding: .2rem 0; }
nav a.main { font-weight: 600; font-size: 1.05rem; }
nav span { margin-right: .75rem; }
main { margin-top: 1.25rem; display: grid; gap: .75rem; }
article, .todo { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .8rem 1rem; }
article { display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; align-items: baseline;
  border-left: .3rem solid var(--line); }
article > * { grid-column: 1 / -1; min-width: 0; }
article > h2 { grid-column: 1; }
article > .state { grid-column: 2; margin: 0; font-weight: 600; white-space: nowrap; }
article.ok { border-left-color: var(--ok); }
article.partly { border-left-color: var(--partly); }
article.failed { border-left-color: var(--failed); }
.ok.state, .ok.verdict { color: var(--ok); }
.partly.state, .partly.verdict { color: var(--partly); }
.failed.state, .failed.verdict { color: var(--failed); }
.state, .verdict, .note, footer, small { color: var(--dim); }
.todo ul { padding-left: 1.2rem; }
.todo li { margin: .25rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .1rem 1.5rem; font-variant-numeric: tabular-nums; }
.facts div { display: flex; gap: .4rem; }
.facts dt { color: var(--dim); }
.facts dd { margin: 0; }
.facts a { padding: .2rem .1rem; }
.instances { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem; }
.instances li { border: 1px solid var(--line); background: var(--ground); border-radius: .3rem;
  padding: 0 .45rem; font-size: .9rem; }
details { margin-top: .35rem; }
summary { cursor: pointer; color: var(--dim); font-size: .9rem; }
.note, footer { font-size: .9rem; }
.remedy::before { content: "→ "; }
.remedy { font-weight: 500; }
.failing { border-top: 1px solid var(--line); margin-top: .7rem; padding-top: .6rem; }
footer { margin-top: 1.5rem; }
@media (max-width: 30rem) { body { padding: 1rem .75rem 2rem; } .facts { gap: .1rem 1rem; } }
@media print { body { background: none; } article, .todo { break-inside: avoid; } }
"""
)
