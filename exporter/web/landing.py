"""The landing page: the status of every source, errors and remedies. Plain HTML, no script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from exporter import __version__
from exporter.status_report import StatusLine, terminal_safe

_STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
# Instances listed at once; the rest unfold.
MAX_VISIBLE_INSTANCES = 24
# Symbol of a state, beside its name: colour alone must not distinguish states.
STATE_SYMBOLS = {
    "ok": "✓",
    "partly": "!",
    "failed": "✕",
    "unhealthy": "!",
    "not found": "○",
    "off": "○",
    "starting": "…",
}


def landing_page(
    lines: Iterable[StatusLine], telemetry_path: str, prefix: str = "", link_prefix: str = "."
) -> str:
    """Returns the page as HTML; all text from outside is escaped.

    prefix: of all paths on this server. link_prefix: the path of the external URL, or `.` for links
    relative to the page, which are right behind any proxy.
    """
    lines = list(lines)
    sources = [line for line in lines if not line.target]
    verdict, css = _verdict(sources, {line.target for line in lines if line.unhealthy})
    links = escape(link_prefix)
    path = f"{links}{escape(quote(telemetry_path))}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(verdict)} · inference-exporter</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>inference-exporter <small>{escape(__version__)}</small></h1>
<p class="verdict {css}">{escape(verdict)}</p>
<nav>
<span><a class="main" href="{path}">{escape(prefix + telemetry_path)}</a> for Prometheus</span>
<span><a href="{links}/-/ready">{escape(prefix)}/-/ready</a>
<a href="{links}/-/healthy">{escape(prefix)}/-/healthy</a> for probes</span>
<span>Grafana: give the data source Prometheus' scrape interval</span>
</nav>
</header>
<main>
{"".join(_remedies(lines))}{"".join(_source(line, lines, path) for line in sources)}</main>
<footer>
<p>This page does not update; reload it for the current state.
On the host, <code>inference-exporter check</code> prints the same report.</p>
</footer>
</body>
</html>
"""


def _verdict(sources: Sequence[StatusLine], unhealthy: AbstractSet[str]) -> tuple[str, str]:
    """Returns the overall status and its CSS class. unhealthy: GPUs."""
    failing = sum(line.failed for line in sources)
    if failing:
        need = "needs" if failing == 1 else "need"
        return f"{failing} of {len(sources)} sources {need} attention", "failed"
    if any(line.state == "starting" for line in sources):
        return "Starting: first poll in progress", "starting"
    if not any(line.state == "ok" for line in sources):
        return "No source found", "partly"
    if unhealthy:
        gpus = "1 GPU needs" if len(unhealthy) == 1 else f"{len(unhealthy)} GPUs need"
        return f"{gpus} attention", "partly"
    return "No problems", "ok"


def _remedies(lines: Sequence[StatusLine]) -> Iterator[str]:
    """Yields the list of all remedies, if several differ."""
    failed = [line for line in lines if line.remedy and (line.failed or line.unhealthy)]
    if len({line.remedy for line in failed}) < 2:
        return
    yield '<section class="remedies">\n<h2>How to fix it</h2>\n<ul>\n'
    for remedy in dict.fromkeys(line.remedy for line in failed):
        titles = {line.source: line.title for line in failed if line.remedy == remedy}
        links = ", ".join(f'<a href="#{escape(s)}">{_text(t)}</a>' for s, t in titles.items())
        yield f"<li>{_text(remedy)} <small>({links})</small></li>\n"
    yield "</ul>\n</section>\n"


def _source(line: StatusLine, lines: Sequence[StatusLine], path: str) -> str:
    css = line.state.replace(" ", "-")
    targets = [target for target in lines if target.target and target.source == line.source]
    failed = [target for target in targets if not target.unhealthy]
    unhealthy = [target for target in targets if target.unhealthy]
    parts = [
        f'<article class="{css}" id="{escape(line.source)}">\n<h2>{_text(line.title)}</h2>\n',
        f'<p class="state {css}">{_symbol(line.state)} {escape(line.state)}</p>\n',
        *_facts(line, path),
        *_instances(line, {target.target for target in failed}),
        *(f'<p class="note">{_text(note)}</p>\n' for note in line.notes),
        *_error(line),
    ]
    if line.state == "off":
        parts.append(f"<p>Disabled by <code>{escape(line.source)}.enabled: off</code>.</p>\n")
    for _, group in groupby(failed, key=lambda target: (target.message, target.remedy)):
        parts += _failed_instances(list(group))
    for _, group in groupby(unhealthy, key=lambda target: (target.message, target.remedy)):
        parts += _unhealthy_instances(list(group))
    return "".join([*parts, "</article>\n"])


def _facts(line: StatusLine, path: str) -> Iterator[str]:
    facts = []
    if line.age is not None:
        facts.append(("last success", escape(format_age(line.age))))
    if line.duration is not None:
        facts.append(("poll duration", escape(format_duration(line.duration))))
    if line.series:
        link = f"{path}?collect%5B%5D={quote(line.source)}"
        facts.append(("series", f'<a href="{escape(link)}">{line.series}</a>'))
    if facts:
        yield '<dl class="facts">'
        yield from (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
        yield "</dl>\n"


def _instances(line: StatusLine, failed: set[str]) -> Iterator[str]:
    """Yields the list of working instances; the page lists failed ones below, with the error."""
    names = [name for name in line.targets if not any(_matches(name, target) for target in failed)]
    if not names:
        return
    yield f'<ul class="instances">{_items(names[:MAX_VISIBLE_INSTANCES])}</ul>\n'
    if rest := names[MAX_VISIBLE_INSTANCES:]:
        yield f"<details><summary>{len(rest)} more</summary>"
        yield f'<ul class="instances">{_items(rest)}</ul></details>\n'


def _matches(name: str, target: str) -> bool:
    """Returns whether a failed target, written as `title` or `title (name)`, has this name."""
    return target == name or target.startswith(f"{name} (")


def _items(names: Sequence[str]) -> str:
    return "".join(f"<li>{_text(name)}</li>" for name in names)


def _error(line: StatusLine) -> Iterator[str]:
    if line.message:
        yield f'<p class="message">{_text(line.message)}</p>\n'
    if line.remedy:
        yield f'<p class="remedy">{_text(line.remedy)}</p>\n'


def _failed_instances(group: Sequence[StatusLine]) -> Iterator[str]:
    """Yields a section for failed instances with the same error and remedy."""
    names = ", ".join(line.target for line in group)
    yield '<section class="failed-instances">\n'
    yield f"<h3>{_symbol('failed')} {_text(names)}</h3>\n"
    ages = [line.age for line in group if line.age is not None]
    last = f"last success {format_age(min(ages))}" if ages else "no successful poll so far"
    yield f'<p class="note">{escape(last)}</p>\n'
    yield from _error(group[0])
    yield "</section>\n"


def _unhealthy_instances(group: Sequence[StatusLine]) -> Iterator[str]:
    """Yields a section for instances that are read, with the same finding and remedy."""
    names = ", ".join(line.target for line in group)
    yield '<section class="failed-instances unhealthy">\n'
    yield f"<h3>{_symbol('unhealthy')} {_text(names)}</h3>\n"
    yield from _error(group[0])
    yield "</section>\n"


def _symbol(state: str) -> str:
    return f'<span aria-hidden="true">{STATE_SYMBOLS.get(state, "")}</span>'


def format_age(seconds: float) -> str:
    """Returns an age such as `12 s ago`, `2 min ago`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 0.5 else "just now"


def format_duration(seconds: float) -> str:
    """Returns a duration such as `0.4 ms`, `12 ms`, `4.0 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _text(text: str) -> str:
    return escape(terminal_safe(text))
