"""The landing page: how every source fares and what to do about it. Plain HTML, no script."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from exporter import __version__
from exporter.status_report import StatusLine, terminal_safe

_STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
# Instances named at once; the rest unfold.
SHOWN = 24
# What a state means, beside its word; no state is told by colour alone.
SIGNS = {"ok": "✓", "partly": "!", "failed": "✕", "not found": "○", "off": "○", "starting": "…"}


def landing_page(lines: Iterable[StatusLine], telemetry_path: str) -> str:
    """The whole page. Everything that comes from outside is escaped."""
    every = list(lines)
    sources = [line for line in every if not line.target]
    verdict, css = _verdict(sources)
    path = escape(quote(telemetry_path))
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
<span><a class="main" href="{path}">{escape(telemetry_path)}</a> for Prometheus</span>
<span><a href="/-/ready">/-/ready</a> <a href="/-/healthy">/-/healthy</a> for probes</span>
</nav>
</header>
<main>
{"".join(_todo(every))}{"".join(_source(line, every, path) for line in sources)}</main>
<footer>
<p>Ages and states are those of the moment this page was loaded; load it again for newer ones.
On the host, <code>inference-exporter check</code> tells the same.</p>
</footer>
</body>
</html>
"""


def _verdict(sources: Sequence[StatusLine]) -> tuple[str, str]:
    """How it goes in all, and the class of that."""
    failing = sum(line.failed for line in sources)
    if failing:
        need = "needs" if failing == 1 else "need"
        return f"{failing} of {len(sources)} sources {need} attention", "failed"
    if any(line.state == "starting" for line in sources):
        return "Starting", "starting"
    working = sum(line.state == "ok" for line in sources)
    if not working:
        return "Nothing is found", "partly"
    return "All is well", "ok"


def _todo(lines: Sequence[StatusLine]) -> Iterator[str]:
    """What a person can do about what fails, where that is more than one thing."""
    wanted = [line for line in lines if line.remedy and line.failed]
    if len({line.remedy for line in wanted}) < 2:
        return
    yield '<section class="todo">\n<h2>What to do</h2>\n<ul>\n'
    for remedy in dict.fromkeys(line.remedy for line in wanted):
        where = {line.source: line.title for line in wanted if line.remedy == remedy}
        links = ", ".join(f'<a href="#{escape(s)}">{_text(t)}</a>' for s, t in where.items())
        yield f"<li>{_text(remedy)} <small>({links})</small></li>\n"
    yield "</ul>\n</section>\n"


def _source(line: StatusLine, every: Sequence[StatusLine], path: str) -> str:
    css = line.state.replace(" ", "-")
    failing = [each for each in every if each.target and each.source == line.source]
    parts = [
        f'<article class="{css}" id="{escape(line.source)}">\n<h2>{_text(line.title)}</h2>\n',
        f'<p class="state {css}">{_sign(line.state)} {escape(line.state)}</p>\n',
        *_facts(line, path),
        *_instances(line, {each.target for each in failing}),
        *(f'<p class="note">{_text(note)}</p>\n' for note in line.notes),
        *_trouble(line),
    ]
    if line.state == "off":
        parts.append(f"<p>Switched off: <code>{escape(line.source)}.enabled</code>.</p>\n")
    for _, group in groupby(failing, key=lambda each: (each.message, each.remedy)):
        parts += _failing(list(group))
    return "".join([*parts, "</article>\n"])


def _facts(line: StatusLine, path: str) -> Iterator[str]:
    facts = []
    if line.age is not None:
        facts.append(("read", escape(ago(line.age))))
    if line.duration is not None:
        facts.append(("took", escape(span(line.duration))))
    if line.series:
        link = f"{path}?collect%5B%5D={quote(line.source)}"
        facts.append(("series", f'<a href="{escape(link)}">{line.series}</a>'))
    if facts:
        yield '<dl class="facts">'
        yield from (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
        yield "</dl>\n"


def _instances(line: StatusLine, failing: set[str]) -> Iterator[str]:
    """The instances that answer; those that fail have their own words below."""
    names = [name for name in line.targets if not any(_called(name, bad) for bad in failing)]
    if not names:
        return
    yield f'<ul class="instances">{_items(names[:SHOWN])}</ul>\n'
    if rest := names[SHOWN:]:
        yield f"<details><summary>{len(rest)} more</summary>"
        yield f'<ul class="instances">{_items(rest)}</ul></details>\n'


def _called(name: str, target: str) -> bool:
    """Whether a failing target, told with its name behind its title, is this one."""
    return target == name or target.startswith(f"{name} (")


def _items(names: Sequence[str]) -> str:
    return "".join(f"<li>{_text(name)}</li>" for name in names)


def _trouble(line: StatusLine) -> Iterator[str]:
    if line.message:
        yield f'<p class="message">{_text(line.message)}</p>\n'
    if line.remedy:
        yield f'<p class="remedy">{_text(line.remedy)}</p>\n'


def _failing(group: Sequence[StatusLine]) -> Iterator[str]:
    """Instances that fail alike, said once."""
    names = ", ".join(line.target for line in group)
    yield '<section class="failing">\n'
    yield f"<h3>{_sign('failed')} {_text(names)}</h3>\n"
    ages = [line.age for line in group if line.age is not None]
    last = f"last read {ago(min(ages))}" if ages else "never read"
    yield f'<p class="note">{escape(last)}</p>\n'
    yield from _trouble(group[0])
    yield "</section>\n"


def _sign(state: str) -> str:
    return f'<span aria-hidden="true">{SIGNS.get(state, "")}</span>'


def ago(seconds: float) -> str:
    """An age in the words of people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 0.5 else "just now"


def span(seconds: float) -> str:
    """A duration with the digits that mean something."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _text(text: str) -> str:
    return escape(terminal_safe(text))
