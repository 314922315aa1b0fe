"""The landing page: how every source fares and what to do about it. Plain HTML, no script."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from exporter import __version__
from exporter.report import Line

_STYLE = """
:root { color-scheme: light dark; --ok: #1a7f37; --bad: #cf222e; --part: #9a6700; --dim: #6e7781; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; }
p { margin: .3rem 0 1rem; }
article { border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: .5rem;
  padding: .6rem 1rem; margin: .6rem 0; }
article.target { margin-left: 2rem; }
h2 { font-size: 1rem; margin: 0; display: inline; }
.state { font-weight: 600; float: right; }
.ok { color: var(--ok); } .failed { color: var(--bad); } .partly { color: var(--part); }
.not-found, .off, .starting { color: var(--dim); }
.facts { color: var(--dim); font-size: .9rem; margin: 0; }
.message { margin: .2rem 0 0; overflow-wrap: anywhere; }
.remedy { margin: .2rem 0 0; font-style: italic; overflow-wrap: anywhere; }
"""


def landing_page(lines: Iterable[Line], telemetry_path: str) -> str:
    """The whole page. Everything that comes from outside is escaped."""
    articles = "\n".join(_article(line) for line in lines)
    # A path may hold bytes that are no text.
    articles = articles.encode("utf-8", "replace").decode()
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>inference-exporter</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>inference-exporter {escape(__version__)}</h1>
<p><a href="{escape(telemetry_path)}">{escape(telemetry_path)}</a> is what Prometheus scrapes;
<a href="/-/healthy">/-/healthy</a> and <a href="/-/ready">/-/ready</a> are for probes.</p>
{articles}
</body>
</html>
"""


def _article(line: Line) -> str:
    css = line.state.replace(" ", "-")
    parts = [
        "<article class=target>" if line.target else "<article>",
        f'<span class="state {css}">{escape(line.state)}</span>',
        f"<h2>{escape(line.target or line.title)}</h2>",
    ]
    if facts := _facts(line):
        parts.append(f'<p class="facts">{escape(facts)}</p>')
    if line.message:
        parts.append(f'<p class="message">{escape(line.message)}</p>')
    if line.remedy:
        parts.append(f'<p class="remedy">{escape(line.remedy)}</p>')
    return "".join([*parts, "</article>"])


def _facts(line: Line) -> str:
    facts: list[str] = [*line.notes]
    if line.targets:
        shown = ", ".join(line.targets[:16]) + (" …" if len(line.targets) > 16 else "")
        facts.append(shown)
    if line.series:
        facts.append(f"{line.series} series")
    if line.age is not None:
        facts.append(f"read {line.age:.0f} s ago")
    if line.duration is not None:
        facts.append(f"in {line.duration * 1000:.1f} ms")
    return " · ".join(facts)
