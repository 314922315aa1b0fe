"""The table `check` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from exporter.status_report import Line, printable


def check_table(lines: Iterable[Line]) -> str:
    """One line a source: state, what was found; below it what is wrong and how to mend it."""
    lines = list(lines)
    width = max(len(line.title) for line in lines)
    return "".join(f"{text}\n" for line in lines for text in _texts(line, width))


def _texts(line: Line, width: int) -> Iterator[str]:
    indent = " " * (width + 2)
    if line.target:
        yield f"{indent}{printable(line.target)}: {printable(line.message)}"
    else:
        yield f"{line.title:{width}}  {line.state:10} {_found(line)}".rstrip()
        if line.message:
            yield f"{indent}{printable(line.message)}"
    for note in line.notes:
        yield f"{indent}{printable(note)}"
    if line.remedy:
        yield f"{indent}-> {printable(line.remedy)}"


def _found(line: Line) -> str:
    if not line.targets:
        return ""
    names = ", ".join(line.targets[:8]) + (" …" if len(line.targets) > 8 else "")
    return f"{printable(names)} ({line.series} series)"
