"""A fake source: a row type with every kind of metric, and targets controlled by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from exporter.exposition.renderer import Renderer
from exporter.exposition.upstream_families import add_families
from exporter.model import (
    Histogram,
    Metric,
    Reading,
    Rendered,
    SeriesLimit,
    Summary,
    Target,
    Up,
    counter,
    counters,
    gauge,
    gauges,
    histogram,
    info,
    summary,
    up,
)
from exporter.poll import RenderFunctions, RenderReading


@dataclass(frozen=True, slots=True)
class Thing:
    """A row with every kind of metric."""

    LABELS: ClassVar[tuple[str, ...]] = ("zone", "name")
    OPTIONAL_LABELS: ClassVar[tuple[str, ...]] = ("owner", "team")
    labels: tuple[str, ...]
    heat: float | None = None
    sent: float | None = None
    parts: tuple[tuple[tuple[str, ...], float], ...] = ()
    took: Summary | None = None
    sizes: Histogram | None = None
    texts: tuple[str, ...] | None = None
    more: tuple[tuple[str, str], ...] = ()


UP = up("thing_up", "Whether the thing answers.", ("name",))
METRICS: tuple[Metric[Any], ...] = (
    UP,
    gauge("thing_heat_celsius", 'Heat, a "quoted" \\ word.', Thing, lambda t: t.heat),
    counter("thing_sent_bytes_total", "Bytes sent.", Thing, lambda t: t.sent),
    gauges("thing_part_ratio", "Share by part.", Thing, ("part",), lambda t: t.parts),
    counters("thing_parts_total", "Parts.", Thing, ("a_part",), lambda t: t.parts),
    summary("thing_duration_seconds", "Time taken.", Thing, lambda t: t.took),
    histogram("thing_size_bytes", "Sizes.", Thing, lambda t: t.sizes),
    info(
        "thing_info",
        "Information about the thing.",
        Thing,
        ("model", "about"),
        lambda t: t.texts or ("", ""),
        extra=lambda t: t.more,
    ),
)


@dataclass(eq=False)
class FakeTarget:
    """Returns the result of `answer`; waits while `gate` is not set."""

    name: str
    answer: Callable[[], Reading]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    reads: int = 0
    up: Metric[Up] | None = UP

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def up_labels(self) -> tuple[str, ...]:
        return (self.name,)

    async def read(self) -> Reading:
        self.reads += 1
        await self.gate.wait()
        return self.answer()


@dataclass(eq=False)
class FakeSource:
    """Discovers `targets`, or raises `error`."""

    targets: list[FakeTarget] = field(default_factory=list)
    error: Exception | None = None
    name: str = "fake"
    closed: bool = False

    async def discover(self) -> Sequence[Target]:
        if self.error is not None:
            raise self.error
        return list(self.targets)

    async def close(self) -> None:
        self.closed = True


def render_functions() -> RenderFunctions:
    """Returns functions that render in the event loop, without a thread."""

    def for_target() -> RenderReading:
        renderer = Renderer(METRICS)

        def now(reading: Reading, limit: SeriesLimit) -> Rendered:
            rendered = renderer.render(reading.rows, limit.rows)
            return add_families(rendered, reading.families, limit.families)

        async def in_thread(reading: Reading, limit: SeriesLimit) -> Rendered:
            return now(reading, limit)

        return RenderReading(now, in_thread, renderer.pure)

    return RenderFunctions(
        for_target,
        lambda metric, row: Renderer((metric,)).render((row,)),
        lambda rows: Renderer(METRICS).render(rows),
    )
