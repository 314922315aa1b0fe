"""Families of other servers' pages, as they came, under one set of comment lines each.

Their names, labels and values are not ours to judge, so they need not be valid OpenMetrics: a
family that is not has its samples there as families of type unknown, which may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from exporter.errors import TooMany
from exporter.exposition.families import Format
from exporter.model import Rendered, UpstreamFamily


def add_families(rendered: Rendered, families: Iterable[UpstreamFamily], room: int) -> Rendered:
    """The rendering with the families of another server's page that fit beside it."""
    kept: list[UpstreamFamily] = []
    shed: dict[str, int] = {}
    series = rendered.series
    for family in families:
        if series + family.series > room:
            shed[family.name] = family.series
        else:
            kept.append(family)
            series += family.series
    problems = (*rendered.problems, *([_too_many(shed)] if shed else []))
    all_shed = rendered.shed + sum(shed.values())
    return Rendered(rendered.lines, series, problems, all_shed, tuple(kept))


def _too_many(shed: dict[str, int]) -> TooMany:
    return TooMany(
        f"{len(shed)} families of {sum(shed.values())} series would go over the ceiling and are"
        f" left out: {', '.join(list(shed)[:5])}",
        "raise max_series, or name fewer families to keep",
    )


def render_families(families: Iterable[UpstreamFamily], format: Format) -> bytes:
    """All families, those of one name together under the first one's comments."""
    by_name: dict[str, list[UpstreamFamily]] = {}
    for family in families:
        by_name.setdefault(family.name, []).append(family)
    write = _text if format is Format.TEXT else _openmetrics
    return b"".join(part for same in by_name.values() for part in write(same))


def _text(same: list[UpstreamFamily]) -> Iterable[bytes]:
    first = same[0]
    if first.help is not None:
        yield f"# HELP {first.name} {first.help}\n".encode()
    yield f"# TYPE {first.name} {first.type}\n".encode()
    for family in same:
        yield family.lines


def _openmetrics(same: list[UpstreamFamily]) -> Iterable[bytes]:
    first = same[0]
    words = first.help.replace('"', r"\"") if first.help is not None else None
    if all(family.openmetrics for family in same):
        counter = first.type == "counter"
        name = first.name.removesuffix("_total") if counter else first.name
        type_ = "unknown" if first.type == "untyped" else first.type
        if words is not None:
            yield f"# HELP {name} {words}\n".encode()
        yield f"# TYPE {name} {type_}\n".encode()
        for family in same:
            yield family.lines
        return
    samples: dict[bytes, list[bytes]] = {}
    for family in same:
        for line in family.lines.splitlines(keepends=True):
            samples.setdefault(line[: line.index(b"{")], []).append(line)
    for sample, lines in samples.items():
        if words is not None:
            yield b"# HELP %b %b\n" % (sample, words.encode())
        yield b"# TYPE %b unknown\n" % sample
        yield from lines
