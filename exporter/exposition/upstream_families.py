"""Renders families merged from upstream pages, each name under one set of comment lines.

Upstream names, labels and values are passed through unchecked, so they need not be valid
OpenMetrics. In OpenMetrics, an invalid family's samples are families of type unknown, which may
have any name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from exporter.errors import TooMany
from exporter.exposition.families import Format
from exporter.model import Rendered, UpstreamFamily

# OpenMetrics declares these types without the suffix of their samples.
_SUFFIX = {"counter": "_total", "info": "_info"}


def add_families(
    rendered: Rendered, families: Iterable[UpstreamFamily], max_series: int
) -> Rendered:
    """Returns the rendering with the upstream families that fit within max_series."""
    kept: list[UpstreamFamily] = []
    dropped: dict[str, int] = {}  # series by family
    series = 0
    for family in families:
        if series + family.series > max_series:
            dropped[family.name] = family.series
        else:
            kept.append(family)
            series += family.series
    problems = (*rendered.problems, *([_too_many(dropped)] if dropped else []))
    dropped_series = rendered.dropped_series + sum(dropped.values())
    return replace(
        rendered,
        series=rendered.series + series,
        problems=problems,
        dropped_series=dropped_series,
        families=tuple(kept),
        foreign_series=series,
    )


def _too_many(dropped: dict[str, int]) -> TooMany:
    return TooMany(
        f"{len(dropped)} families of {sum(dropped.values())} series exceed the limit and are left"
        f" out: {', '.join(list(dropped)[:5])}",
        "raise max_series, or keep fewer families of the upstream",
    )


def render_families(families: Iterable[UpstreamFamily], format: Format) -> bytes:
    """Returns all families; those of one name follow the comment lines of the first."""
    by_name: dict[str, list[UpstreamFamily]] = {}
    for family in families:
        by_name.setdefault(family.name, []).append(family)
    render = _text if format is Format.TEXT else _openmetrics
    return b"".join(part for same_name in by_name.values() for part in render(same_name))


def _text(families: list[UpstreamFamily]) -> Iterable[bytes]:
    first = families[0]
    if first.help is not None:
        yield f"# HELP {first.name} {first.help}\n".encode()
    yield f"# TYPE {first.name} {first.text_type}\n".encode()
    for family in families:
        yield family.lines


def _openmetrics(families: list[UpstreamFamily]) -> Iterable[bytes]:
    first = families[0]
    help_ = first.help.replace('"', r"\"") if first.help is not None else None
    if all(family.openmetrics for family in families):
        name = first.name.removesuffix(_SUFFIX.get(first.type, ""))
        type_ = "unknown" if first.type == "untyped" else first.type
        if help_ is not None:
            yield f"# HELP {name} {help_}\n".encode()
        yield f"# TYPE {name} {type_}\n".encode()
        for family in families:
            yield family.lines
        return
    samples: dict[bytes, list[bytes]] = {}
    for family in families:
        for line in family.lines.split(b"\n")[:-1]:
            samples.setdefault(line[: line.index(b"{")], []).append(line + b"\n")
    for sample, lines in samples.items():
        if help_ is not None:
            yield b"# HELP %b %b\n" % (sample, help_.encode())
        yield b"# TYPE %b unknown\n" % sample
        yield from lines
