"""The words the rooms speak to each other: Metric, Row, Reading, Health, Target, Source.

No input, no output, and no imports from other rooms (errors.py, which imports nothing, aside).

A *source* (gpu, containers, triton, host, itself) has *targets*: the instances that fail and age
alone, such as one GPU or one Triton server. Reading a target gives a `Reading`: frozen rows of
plain numbers. What a row means to Prometheus is said in one line of the source's `metrics.py`:
a `Metric`, which knows how to take its value from a row.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from exporter.errors import SourceError

# Units of measure that Prometheus calls base units; a metric's name ends in one (before `_total`).
UNITS = frozenset(
    ("bytes", "seconds", "ratio", "celsius", "watts", "joules", "hertz", "volts", "amperes")
)

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Type(StrEnum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    SUMMARY = "summary"


class Row(Protocol):
    """One line of a reading: a frozen, slotted dataclass of plain values.

    `LABELS` names the labels that every metric of the row carries, `labels` holds their values.
    """

    LABELS: ClassVar[tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """The value of a summary without quantiles: rendered as `_sum` and `_count`."""

    sum: float
    count: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """The value of a classic histogram: rendered as `_bucket` by `le`, `_count` and `_sum`.

    bounds: finite upper bounds, ascending. buckets: for each, how many were at or below it.
    count: how many there were at all, which is the bucket of +Inf.
    """

    bounds: tuple[float, ...]
    buckets: tuple[float, ...]
    sum: float
    count: float


Number = int | float
LabelValues = tuple[str, ...]
"""Label values, in the order of the label names declared for them."""
LabelPairs = Iterable[tuple[str, str]]
"""Label names with their values."""
Value = Number | Summary | Histogram
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Metric(Generic[R]):
    """The declaration of one metric; the only place that knows its name, meaning and origin.

    get: takes a row, gives
      - without own `labels`: the value, or None where the row has none (absent, never 0);
      - with own `labels`: pairs of (values of those labels, value);
      - for INFO: the values of its own labels, in their order, or None.
    """

    name: str
    type: Type
    help: str
    row: builtins.type[R]
    get: Callable[[R], Any]
    labels: tuple[str, ...] = ()
    extra: Callable[[R], Iterable[tuple[str, str]]] | None = None
    """INFO only: takes a row, gives labels that only the settings name, as (name, value)."""
    row_labels: tuple[str, ...] = field(init=False)
    """Names of the labels that come from the row."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_labels", tuple(getattr(self.row, "LABELS")))  # noqa: B009 - R is unbound to Row, so that rows may be plain dataclasses
        if not _NAME.match(self.name):
            raise ValueError(f"{self.name}: not a metric name")
        for type_, suffix in ((Type.COUNTER, "_total"), (Type.INFO, "_info")):
            if self.name.endswith(suffix) is not (self.type is type_):
                raise ValueError(f"{self.name}: {suffix} belongs to, and only to, a {type_}")
        if not self.help.endswith(".") or "\n" in self.help:
            raise ValueError(f"{self.name}: the help is one line that ends in a full stop")
        if len(set(self.label_names)) != len(self.label_names):
            raise ValueError(f"{self.name}: a label twice in {self.label_names}")

    @property
    def label_names(self) -> tuple[str, ...]:
        """All label names: the row's, then the metric's own."""
        return self.row_labels + self.labels

    @property
    def family(self) -> str:
        """The name of the family as OpenMetrics and prometheus_client have it: no suffix."""
        return self.name.removesuffix("_total" if self.type is Type.COUNTER else "_info")

    @property
    def unit(self) -> str:
        """The unit, taken from the end of the family's name; empty where there is none."""
        last = self.family.rsplit("_", 1)[-1]
        return last if last in UNITS else ""


def gauge(name: str, help: str, row: type[R], get: Callable[[R], Number | None]) -> Metric[R]:
    """Declare a gauge: one value a row, absent where `get` gives None."""
    return Metric(name, Type.GAUGE, help, row, get)


def counter(name: str, help: str, row: type[R], get: Callable[[R], Number | None]) -> Metric[R]:
    """Declare a counter (`_total`): one value a row, absent where `get` gives None."""
    return Metric(name, Type.COUNTER, help, row, get)


def summary(name: str, help: str, row: type[R], get: Callable[[R], Summary | None]) -> Metric[R]:
    """Declare a summary without quantiles: `_sum` and `_count`."""
    return Metric(name, Type.SUMMARY, help, row, get)


def histogram(
    name: str, help: str, row: type[R], get: Callable[[R], Histogram | None]
) -> Metric[R]:
    """Declare a classic histogram: `_bucket` by `le`, `_count` and `_sum`."""
    return Metric(name, Type.HISTOGRAM, help, row, get)


def info(
    name: str,
    help: str,
    row: type[R],
    labels: tuple[str, ...],
    get: Callable[[R], tuple[str, ...]],
    *,
    extra: Callable[[R], Iterable[tuple[str, str]]] | None = None,
) -> Metric[R]:
    """Declare an info metric (`_info`): its own labels hold text, its value is 1.

    extra: labels that only the settings name, never one of the declared ones.
    """
    return Metric(name, Type.INFO, help, row, get, labels, extra)


LabelledValues = Iterable[tuple[LabelValues, Number]]


def gauges(
    name: str, help: str, row: type[R], labels: tuple[str, ...], get: Callable[[R], LabelledValues]
) -> Metric[R]:
    """Declare a gauge with labels of its own: several values a row."""
    return Metric(name, Type.GAUGE, help, row, get, labels)


def counters(
    name: str, help: str, row: type[R], labels: tuple[str, ...], get: Callable[[R], LabelledValues]
) -> Metric[R]:
    """Declare a counter with labels of its own: several values a row."""
    return Metric(name, Type.COUNTER, help, row, get, labels)


@dataclass(frozen=True, slots=True)
class Up:
    """Whether one target answers: the row of every `…_up` metric."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    up: bool
    target: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def up(name: str, help: str, labels: tuple[str, ...] = ()) -> Metric[Up]:
    """Declare a source's `…_up`: 1 while the target answers, 0 while it does not."""
    if not labels:
        return gauge(name, help, Up, lambda row: int(row.up))
    return gauges(name, help, Up, labels, lambda row: ((row.target, int(row.up)),))


@dataclass(frozen=True, slots=True)
class UpstreamFamily:
    """A family of another server's page, as it came.

    type: counter, gauge, histogram, summary or untyped. help: escaped, as it came; None: none.
    lines: sample lines, each with labels and a newline, without time stamps. series: how many.
    openmetrics: whether OpenMetrics 1.0 takes the lines as a family of that type, too.
    """

    name: str
    type: str
    help: str | None
    lines: bytes
    series: int
    openmetrics: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What one poll of one target gave: rows of any of the source's row types.

    problems: parts that could not be read while the rest could; counted and logged once per kind.
    note: how it was read, where there are several ways: for people, in `check` and on the page.
    families: of another server's page, to be shown beside our own; of names nobody else has.
    """

    rows: tuple[Row, ...]
    problems: tuple[SourceError, ...] = ()
    note: str = ""
    families: tuple[UpstreamFamily, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A reading in the exposition format: by metric name, its sample lines, each with its newline.

    The lines are those of text 0.0.4 and of OpenMetrics 1.0 alike. series: how many lines.
    problems: rows or metrics that had to be left out. shed: series left out over the ceiling.
    families: those of another server's page.
    """

    lines: Mapping[str, bytes]
    series: int
    problems: tuple[SourceError, ...] = ()
    shed: int = 0
    families: tuple[UpstreamFamily, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """How a target, or a source's discovery, fares. Times are Unix time stamps in seconds.

    error: why the last attempt failed; None after a success.
    duration: seconds the last attempt took.
    failures: failed attempts and problems so far, by kind.
    """

    error: SourceError | None = None
    last_success: float | None = None
    duration: float | None = None
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.error is None and self.last_success is not None


class Target(Protocol):
    """One instance of a source: it fails, ages and recovers alone."""

    @property
    def name(self) -> str:
        """Unique within the source and steady over time ("0", "localhost:8000", "engine")."""

    @property
    def up(self) -> Metric[Up] | None:
        """The declared metric that says whether this target answers, if there is one."""

    @property
    def up_labels(self) -> tuple[str, ...]:
        """The values of that metric's labels."""

    async def read(self) -> Reading:
        """Read once. Raises SourceError; may be cancelled at its deadline."""


@runtime_checkable
class SelfWaking(Protocol):
    """A target that itself hears of news, and asks to be read before its turn."""

    def woken_by(self, wake: Callable[[], None]) -> None:
        """Called once, by what polls it; `wake` may then be called from the event loop."""


@runtime_checkable
class SelfCounting(Protocol):
    """A target that counts what goes wrong with it: that is to be seen just while it fails."""

    def counts(self) -> tuple[Row, ...]:
        """Rows of counters, shown like its `up` for as long as the target is wanted.

        Called after each attempt to read it, and before the first. Must not fail or take long.
        """


class Source(Protocol):
    """One kind of thing on the host. Built from its settings; does nothing before `discover`."""

    @property
    def name(self) -> str: ...

    async def discover(self) -> Sequence[Target]:
        """The targets there are now; the same objects for the same things. Called every interval.

        A target that is lost but should be there (a GPU off the bus, a server given by URL) is
        still listed: its own read fails. Raises NotFound where there is nothing of the kind on
        this host, another SourceError where that cannot be told.
        """

    async def close(self) -> None:
        """Let go of everything. Never waits for a call that hangs."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A target as the store knows it. title: what people call it ("3" for the GPU at index 3).

    note: that of its current reading. shed: series of it that are over the ceiling and left out.
    """

    name: str
    health: Health
    series: int
    title: str = ""
    note: str = ""
    shed: int = 0


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source as the store knows it: for the daemon's own metrics, the landing page, `check`.

    wanted: it was found once, or its setting is `on`; only then is its absence a failure.
    """

    name: str
    enabled: str
    wanted: bool
    health: Health
    targets: tuple[TargetStatus, ...] = ()
    max_series: int = sys.maxsize

    @property
    def up(self) -> bool | None:
        """True while any target answers; None for a source that is not wanted."""
        if not self.wanted:
            return None
        return any(target.health.up for target in self.targets)

    @property
    def series(self) -> int:
        return sum(target.series for target in self.targets)

    @property
    def shed(self) -> int:
        return sum(target.shed for target in self.targets)
