"""The types that all packages share: Metric, Row, Reading, Health, Target, Source.

Pure: no input or output, and no imports from the project except errors.py.

A *source* (gpu, containers, triton, host, …) has *targets*: instances that are polled, fail and
expire independently, such as one GPU or one Triton server. Reading a target returns a `Reading`:
frozen *rows* of plain values. A `Metric` in the source's `metrics.py` declares a metric of a row
type: its name, type, HELP text, labels, and the function that takes its value from a row.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from exporter.errors import SourceError

# Prometheus' base units, as suffixes of metric names (before `_total`).
UNITS = frozenset(
    ("bytes", "seconds", "ratio", "celsius", "watts", "joules", "hertz", "volts", "amperes")
)

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Type(StrEnum):
    """The type of a metric, as in the exposition formats."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"
    SUMMARY = "summary"


class Row(Protocol):
    """One row of a reading: a frozen, slotted dataclass of plain values.

    `LABELS`: label names that all metrics of the row type have. `labels`: their values.
    A row type may have `OPTIONAL_LABELS`, too: names of labels that only some rows have, such as
    the pod of a container. Then `labels` ends with their values, or has none of them; an empty one
    is no label.
    """

    LABELS: ClassVar[tuple[str, ...]]

    @property
    def labels(self) -> tuple[str, ...]: ...


@runtime_checkable
class ComparableRow(Protocol):
    """A row with values by key, for metrics whose `get` has that key as its attribute `key`."""

    def changed_keys(self, previous: Any) -> Collection[str]:
        """Returns the keys whose values may have another text than in a previous row."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A value of a summary without quantiles: exposed as `_sum` and `_count`."""

    sum: float
    count: float


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An observation of a bucket, and the trace it is from. Exposed in OpenMetrics only.

    timestamp: Unix time in seconds.
    """

    trace_id: str
    value: float
    timestamp: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """A value of a classic histogram: exposed as `_bucket` by `le`, `_count` and `_sum`.

    bounds: finite upper bounds, ascending. buckets: cumulative counts, one for each bound.
    count: all observations, which is the bucket of +Inf. sum: None if unknown: no
    `_sum` and `_count`. exemplars: one for each bound, then that of +Inf, None without one; or
    empty.
    """

    bounds: tuple[float, ...]
    buckets: tuple[float, ...]
    sum: float | None
    count: float
    exemplars: tuple[Exemplar | None, ...] = ()


Number = int | float
LabelValues = tuple[str, ...]
"""Label values, in the order of the declared label names."""
LabelPairs = Iterable[tuple[str, str]]
"""(label name, label value)."""
Value = Number | Summary | Histogram
R = TypeVar("R")
T = TypeVar("T")


class ByField(Generic[R]):
    """A metric's `get` that depends on one attribute of the row: `field`.

    take: returns the value, or the pairs, from the attribute; None: the attribute is the value.
    While the attributes of all rows are the same objects, the metric is not rendered again.
    """

    def __init__(self, field: str, take: Callable[[Any], Any] | None = None) -> None:
        self.field = field
        self.take = take

    def __call__(self, row: R) -> Any:
        attribute = getattr(row, self.field)
        return attribute if self.take is None else self.take(attribute)


@dataclass(frozen=True, slots=True)
class Metric(Generic[R]):
    """The declaration of one metric: the only place of its name, HELP text and origin.

    get: takes a row and returns
      - without `labels`: the value, or None if the row has none (no series, never 0);
      - with `labels`: pairs (label values, value);
      - for INFO: the label values, in the order of `labels`, or None.
    """

    name: str
    type: Type
    help: str
    row: builtins.type[R]
    get: Callable[[R], Any]
    labels: tuple[str, ...] = ()
    extra: Callable[[R], Iterable[tuple[str, str]]] | None = None
    """INFO only: takes a row and returns the labels that the settings add, as (name, value)."""
    row_labels: tuple[str, ...] = field(init=False)
    """Label names of the row type."""
    optional_labels: tuple[str, ...] = field(init=False)
    """Names of the labels that only some rows of the type have."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "optional_labels", getattr(self.row, "OPTIONAL_LABELS", ()))
        object.__setattr__(self, "row_labels", tuple(getattr(self.row, "LABELS")))  # noqa: B009 - R is unbound to Row, so that rows may be plain dataclasses
        if not _NAME.match(self.name):
            raise ValueError(f"{self.name}: is not a metric name")
        for type_, suffix in ((Type.COUNTER, "_total"), (Type.INFO, "_info")):
            if self.name.endswith(suffix) is not (self.type is type_):
                raise ValueError(
                    f"{self.name}: the suffix {suffix} is for, and only for, a {type_}"
                )
        if not self.help.endswith(".") or "\n" in self.help:
            raise ValueError(f"{self.name}: HELP must be one line that ends in a full stop")
        names = (*self.label_names, *self.optional_labels)
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: duplicate label in {names}")

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of the labels of every series: those of the row type, then `labels`."""
        return self.row_labels + self.labels

    @property
    def label_names_with_optional(self) -> tuple[str, ...]:
        """The names of the labels of a series whose row has its optional labels."""
        return self.row_labels + self.optional_labels + self.labels

    @property
    def family(self) -> str:
        """The MetricFamily name of OpenMetrics and prometheus_client: without the suffix."""
        return self.name.removesuffix("_total" if self.type is Type.COUNTER else "_info")

    @property
    def unit(self) -> str:
        """The unit, from the end of the family name; empty without one."""
        suffix = self.family.rsplit("_", 1)[-1]
        return suffix if suffix in UNITS else ""


def gauge(name: str, help: str, row: type[R], get: Callable[[R], Number | None]) -> Metric[R]:
    """Declares a gauge: one series a row, absent if `get` returns None."""
    return Metric(name, Type.GAUGE, help, row, get)


def counter(name: str, help: str, row: type[R], get: Callable[[R], Number | None]) -> Metric[R]:
    """Declares a counter (`_total`): one series a row, absent if `get` returns None."""
    return Metric(name, Type.COUNTER, help, row, get)


def summary(name: str, help: str, row: type[R], get: Callable[[R], Summary | None]) -> Metric[R]:
    """Declares a summary without quantiles: `_sum` and `_count`."""
    return Metric(name, Type.SUMMARY, help, row, get)


def histogram(
    name: str, help: str, row: type[R], get: Callable[[R], Histogram | None]
) -> Metric[R]:
    """Declares a classic histogram: `_bucket` by `le`, `_count` and `_sum`."""
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
    """Declares an info metric (`_info`): text in its labels, the value 1.

    extra: the labels that the settings add; none of them has a declared name.
    """
    return Metric(name, Type.INFO, help, row, get, labels, extra)


LabelledValues = Iterable[tuple[LabelValues, Number]]


def gauges(
    name: str, help: str, row: type[R], labels: tuple[str, ...], get: Callable[[R], LabelledValues]
) -> Metric[R]:
    """Declares a gauge with further labels: several series a row."""
    return Metric(name, Type.GAUGE, help, row, get, labels)


def counters(
    name: str, help: str, row: type[R], labels: tuple[str, ...], get: Callable[[R], LabelledValues]
) -> Metric[R]:
    """Declares a counter with further labels: several series a row."""
    return Metric(name, Type.COUNTER, help, row, get, labels)


@dataclass(frozen=True, slots=True)
class Up:
    """The row of every `…_up` metric. target: values of the metric's labels."""

    LABELS: ClassVar[tuple[str, ...]] = ()
    up: bool
    target: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def up(name: str, help: str, labels: tuple[str, ...] = ()) -> Metric[Up]:
    """Declares a source's `…_up`: 1 if the last read of the target succeeded, 0 if it failed.

    Also 0 while metrics of its reading are left out because of a series limit.
    """
    if not labels:
        return gauge(name, help, Up, lambda row: int(row.up))
    return gauges(name, help, Up, labels, lambda row: ((row.target, int(row.up)),))


@dataclass(frozen=True, slots=True)
class UpstreamFamily:
    """A metric family of an upstream page, unchanged.

    type: counter, gauge, histogram, summary, untyped; or info, stateset, gaugehistogram, which only
    OpenMetrics has. help: escaped as in the text format; None without HELP.
    lines: sample lines, each with labels and a newline, without timestamps. series: number of
    lines. openmetrics: whether the lines are also valid in OpenMetrics 1.0 as that type.
    """

    name: str
    type: str
    help: str | None
    lines: bytes
    series: int
    openmetrics: bool

    @property
    def text_type(self) -> str:
        """The type in the text format."""
        return "untyped" if self.type in ("info", "stateset", "gaugehistogram") else self.type


@dataclass(frozen=True, slots=True)
class HealthProblem:
    """A problem of something that was read, such as a GPU that needs a reset: not of the read.

    source: name of the source that reads it. subject: its title. Listed by `check` and on the
    landing page beside that source.
    """

    source: str
    subject: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one read of one target: rows of any of the source's row types.

    problems: parts that failed while the rest was read; counted, and logged once per kind.
    note: the way of reading, if there are several; listed by `check` and on the landing page.
    families: families of an upstream page to expose unchanged; their names are used by no other.
    withdrawn: names of families that are not exposed any more; the source adds to it at any time.
    incomplete: the problem because of which `up` is 0 although the target was read: it returns no
    more than its name. health_problems: problems of what the joined sources have read.
    """

    rows: tuple[Row, ...]
    problems: tuple[SourceError, ...] = ()
    note: str = ""
    families: tuple[UpstreamFamily, ...] = ()
    withdrawn: AbstractSet[str] = frozenset()
    incomplete: SourceError | None = None
    health_problems: tuple[HealthProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A reading in the exposition format.

    lines: sample lines by metric name, each with its newline; the same bytes are valid in text
    0.0.4 and in OpenMetrics 1.0. exemplar_lines: lines of OpenMetrics in their place, of the
    metrics that have exemplars. series: number of lines. problems: rows or metrics left out.
    dropped_series: series left out because of the limit. families: families of an upstream page.
    foreign_series: those of `series` that are of the families. incomplete: the problem because of
    which `up` is 0 although the target was read: declared metrics exceed the limit.
    """

    lines: Mapping[str, bytes]
    series: int
    problems: tuple[SourceError, ...] = ()
    dropped_series: int = 0
    families: tuple[UpstreamFamily, ...] = ()
    foreign_series: int = 0
    incomplete: SourceError | None = None
    exemplar_lines: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeriesLimit:
    """The number of series that a reading may have: of its rows, and of its upstream families."""

    rows: int
    families: int


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of the polls of a target, or of a source's discovery.

    error: the error of the last attempt; None after a success. last_success: Unix timestamp in
    seconds. duration: seconds of the last attempt. failures: failed attempts and problems since
    the start, by `SourceError.kind`. incomplete: as in Rendered, of the last success.
    """

    error: SourceError | None = None
    last_success: float | None = None
    duration: float | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    incomplete: SourceError | None = None

    @property
    def up(self) -> bool:
        """Whether the last attempt succeeded, and its reading has not expired."""
        return self.error is None and self.last_success is not None

    @property
    def complete(self) -> bool:
        """Whether, in addition, no series limit leaves out metrics of it: the exported `up`."""
        return self.up and self.incomplete is None


class Target(Protocol):
    """One instance of a source: polled, failing and expiring independently of the others."""

    @property
    def name(self) -> str:
        """Unique within the source, and stable ("0", "localhost:8000", "engine")."""

    @property
    def up(self) -> Metric[Up] | None:
        """The target's `…_up` metric, if it has one."""

    @property
    def up_labels(self) -> tuple[str, ...]:
        """Values of the labels of `up`."""

    async def read(self) -> Reading:
        """Reads the target. Raises SourceError; is cancelled after the source's timeout."""


@runtime_checkable
class ReadsInThread(Protocol):
    """A target that is read in a thread of its own, in which its reading can be rendered, too.

    Each change of threads costs as much as reading a few files.
    """

    async def read_then(self, finish: Callable[[Reading], T]) -> T:
        """Reads the target, and returns what `finish` makes of the reading, in the same thread.

        Raises as `Target.read`, and what `finish` raises.
        """


@runtime_checkable
class KnowsUnchanged(Protocol):
    """A target that knows without reading that its last reading is still true.

    Most polls then need no change of threads and no rendering.
    """

    def unchanged(self) -> bool:
        """Returns whether a read would return the last reading again. Must not block."""


@runtime_checkable
class SupportsPollRequests(Protocol):
    """A target that receives events and requests a poll before its interval has passed."""

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        """Called once, by the poller. The target calls `request_poll` from the event loop."""


@runtime_checkable
class Auxiliary(Protocol):
    """A target that is no instance of its source, but reports on the others (GPUs' events).

    Whether the source is up does not depend on it, and the list of the instances lacks it.
    """

    @property
    def auxiliary(self) -> bool:
        """True."""


@runtime_checkable
class LimitsPollGap(Protocol):
    """A target that loses data if it is not polled for longer than its buffers hold."""

    @property
    def max_poll_gap(self) -> float:
        """Longest time in seconds between two polls."""


@runtime_checkable
class SupportsErrorCounts(Protocol):
    """A target with counters of its own errors, which are exposed while its reads fail, too."""

    def counts(self) -> tuple[Row, ...]:
        """Returns rows of counters; exposed, like `up`, for as long as the target is listed.

        Called before the first read and after each. Must neither raise nor block.
        """


class Source(Protocol):
    """A kind of target on the host, built from its settings. Reads nothing before `discover`."""

    @property
    def name(self) -> str: ...

    async def discover(self) -> Sequence[Target]:
        """Returns the current targets, the same object for the same instance. Called at every poll.

        Lists a target that is expected but lost (a GPU off the bus, a server given by URL): its
        own read fails. Raises NotFound if the host has none of the kind, another SourceError if
        that cannot be determined.
        """

    async def close(self) -> None:
        """Releases all resources. Does not wait for a hung call."""


@runtime_checkable
class Restoring(Protocol):
    """A source that changes settings of other servers while it runs."""

    async def restore(self) -> None:
        """Restores them. Called once, before any source is closed; may be cancelled."""


@runtime_checkable
class SupportsDiscoveryProblems(Protocol):
    """A source whose discovery may leave out targets."""

    @property
    def problems(self) -> tuple[SourceError, ...]:
        """Problems of the last successful discovery; counted, and logged once per kind."""


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """The state of a target in the store.

    title: the name operators use ("3" for the GPU at index 3). note, health_problems: those of the
    current reading. series: exposed series. dropped_series: series left out because of the limit.
    auxiliary: as in Auxiliary.
    """

    name: str
    health: Health
    series: int
    title: str = ""
    note: str = ""
    dropped_series: int = 0
    auxiliary: bool = False
    health_problems: tuple[HealthProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The state of a source in the store: for its own metrics, the landing page and `check`.

    enabled: the setting (auto, on, off). wanted: the source was found once, or `enabled` is `on`;
    only then is its absence a failure. max_series: limit of its series.
    """

    name: str
    enabled: str
    wanted: bool
    health: Health
    targets: tuple[TargetStatus, ...] = ()
    max_series: int = sys.maxsize

    @property
    def up(self) -> bool | None:
        """Whether the last read of any instance succeeded; None for a source that is not wanted."""
        if not self.wanted:
            return None
        return any(target.health.up for target in self.instances)

    @property
    def instances(self) -> tuple[TargetStatus, ...]:
        """The targets without the auxiliary ones."""
        return tuple(target for target in self.targets if not target.auxiliary)

    @property
    def series(self) -> int:
        return sum(target.series for target in self.targets)

    @property
    def dropped_series(self) -> int:
        return sum(target.dropped_series for target in self.targets)
