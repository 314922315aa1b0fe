"""Families of a page: which samples belong to which declaration, and as what they are exported.

Prometheus takes TYPE lines anywhere on a page; of several for one name, the last counts. Samples
are assigned to families as they arrive; families whose type changes afterwards are sorted at the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from exporter.model import UpstreamFamily
from exporter.upstream.grammar import is_number
from exporter.upstream.quoting import Pairs

# Suffixes of the sample names of each type.
_SUFFIXES = {
    "counter": ("", "_total"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "untyped": ("",),
    "info": ("", "_info"),
    "stateset": ("",),
    "gaugehistogram": ("", "_bucket", "_gsum", "_gcount"),
}
_SUFFIX_BYTES = {
    known: tuple(suffix.encode() for suffix in suffixes) for known, suffixes in _SUFFIXES.items()
}
_TYPES = {b"unknown": "untyped", b"": "untyped", **{name.encode(): name for name in _SUFFIXES}}
_BOUND_NAMES = (b"le", b"quantile")
_BOUND_LABELS = {"histogram": b"le", "gaugehistogram": b"le", "summary": b"quantile"}
# Types with a time of creation as a sample, `…_created`.
_WITH_CREATION_TIME = ("counter", "histogram", "summary")
_CREATED = b"_created"
# OpenMetrics declares these without the suffix of their samples.
_OWN_SUFFIX = {"counter": "_total", "info": "_info"}


def type_of(text: bytes) -> str | None:
    """Returns the type of a TYPE line; None for an unknown one."""
    return _TYPES.get(text) or _TYPES.get(text.strip().lower())


def family_names(name: str, type: str) -> set[str]:
    """Returns all names that a family uses on a page, in either format."""
    names = {name, *(f"{name}{suffix}" for suffix in _SUFFIXES[type])}
    if type in _WITH_CREATION_TIME:
        names.add(f"{name.removesuffix('_total')}_created")
    if type in _OWN_SUFFIX:
        names.add(name.removesuffix(_OWN_SUFFIX[type]))
    return names


@dataclass(frozen=True, slots=True)
class ParsedSeries:
    """One series of an upstream's page, as written on our page.

    prefix: our line up to the value: name and labels, with `upstream`. labels: as on the upstream's
    page, if the series is wanted. label_set: hash of all labels but `le` and `quantile`; equal for
    all samples of one histogram or summary. canonical: whether OpenMetrics accepts the spelling of
    these two: 1.0, not 1. no_bounds: which of them are no number. special: wanted, or has such.
    """

    name: bytes
    prefix: bytes
    labels: tuple[tuple[bytes, bytes], ...]
    label_set: int
    canonical: bool
    no_bounds: tuple[bytes, ...]
    wanted: bool
    special: bool

    @classmethod
    def of(cls, name: bytes, pairs: Pairs, upstream: bytes, *, wanted: bool) -> ParsedSeries:
        """Returns the series with these labels and, unless it is empty, `upstream`."""
        bounds = [pair for pair in pairs if pair[0] in _BOUND_NAMES]
        no_bounds = tuple([label for label, value in bounds if not is_number(value)])
        others = [pair for pair in pairs if pair[0] not in _BOUND_NAMES] if bounds else pairs
        ours = _with_upstream(pairs, upstream) if upstream else pairs
        inner = b",".join([b'%b="%b"' % pair for pair in ours])
        return cls(
            name,
            b"%b{%b} " % (name, inner) if inner else b"%b " % name,
            tuple(pairs) if wanted else (),
            hash(tuple(others)),
            all(b"." in value or b"e" in value or value == b"+Inf" for _, value in bounds),
            no_bounds,
            wanted,
            special=wanted or bool(no_bounds),
        )


def _with_upstream(pairs: Pairs, upstream: bytes) -> Pairs:
    """Returns the labels with `upstream`, sorted."""
    taken = {label for label, _ in pairs}
    renamed = b"exported_upstream"
    while renamed in taken:
        renamed = b"exported_" + renamed
    labels = [(renamed if label == b"upstream" else label, value) for label, value in pairs]
    labels.append((b"upstream", upstream))
    labels.sort()
    return labels


@dataclass(slots=True)
class ParsedFamily:
    """A family and its sample lines.

    declared: the type of its last TYPE line; None without one. kept: whether it is merged.
    openmetrics: whether OpenMetrics accepts all samples so far. needs_check: whether that has to be
    checked for further samples. has_bounds: false if a bucket or quantile is no number: for the
    declared type, readers other than Prometheus would refuse our page. label_sets: those seen so
    far; OpenMetrics requires the samples of a label set in succession.
    """

    name: bytes
    type: str
    kept: bool
    declared: str | None
    needs_check: bool = False
    has_bounds: bool = True
    openmetrics: bool = True
    lines: list[bytes] = field(default_factory=list)
    last_label_set: int | None = None
    label_sets: set[int] | None = None

    def __post_init__(self) -> None:
        self.needs_check = self.type not in ("gauge", "untyped")

    def add(self, series: ParsedSeries, value: bytes) -> None:
        """Adds a sample, if the family is merged."""
        if self.kept:
            self.lines.append(series.prefix + value)
            if self.needs_check:
                self.check(series, value)

    def add_special(self, series: ParsedSeries, value: bytes) -> None:
        """Adds a sample whose bound may be no number."""
        if _BOUND_LABELS.get(self.type) in series.no_bounds:
            self.has_bounds = False
        self.add(series, value)

    def check(self, series: ParsedSeries, value: bytes) -> None:
        """Clears `openmetrics` if OpenMetrics would not accept the sample for this type."""
        negative_or_nan = value[0] in b"-nN"
        if self.type == "counter":
            valid = series.name.endswith(b"_total") and not negative_or_nan
        elif self.type == "info":
            valid = series.name == self.name + b"_info" and float(value) == 1
        elif self.type == "stateset":
            valid = self._check_state(series, value)
        else:
            valid = (
                series.canonical
                and not (negative_or_nan and series.name != self.name)
                and not (self.type != "summary" and series.name == self.name)
                and self._in_succession(series.label_set)
            )
        self.openmetrics = self.needs_check = valid

    def _check_state(self, series: ParsedSeries, value: bytes) -> bool:
        before, state, after = series.prefix.partition(b'%b="' % self.name)
        rest = (before, after.partition(b'"')[2])
        return bool(state) and float(value) in (0, 1) and self._in_succession(hash(rest))

    def _in_succession(self, label_set: int) -> bool:
        """Returns whether the samples of this label set have had no other between them."""
        if label_set == self.last_label_set:
            return True
        self.last_label_set = label_set
        if self.label_sets is None:
            self.label_sets = set()
        known = label_set in self.label_sets
        self.label_sets.add(label_set)
        return not known

    def upstream_family(self, help_text: bytes | None) -> UpstreamFamily:
        name = self.name.decode()
        suffix = _OWN_SUFFIX.get(self.type)
        if suffix and self.openmetrics and not name.endswith(suffix):
            name = f"{name}{suffix}"
        return UpstreamFamily(
            name,
            self.type if self.has_bounds else "untyped",
            help_text.decode() if help_text is not None else None,
            b"\n".join((*self.lines, b"")),
            len(self.lines),
            self.openmetrics and self.has_bounds,
        )


class Families:
    """The families of a page that is being read.

    keep: decides by name whether a family is merged. keep_created: decides it for families of the
    times of creation of others.
    """

    def __init__(self, keep: Callable[[str], bool], keep_created: Callable[[str], bool]) -> None:
        self._keep = keep
        self._keep_created = keep_created
        self._by_name: dict[bytes, ParsedFamily] = {}
        self.by_sample_name: dict[bytes, ParsedFamily] = {}
        # Declared after samples of their names, or again with another type; in order.
        self._late: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def clear(self) -> None:
        self._by_name.clear()
        self.by_sample_name.clear()
        self._late.clear()

    def declare(self, name: bytes, type: str) -> int:
        """Declares the type of a family; returns the bytes of its names if it is new."""
        family = self._by_name.get(name)
        if family is not None:
            if family.declared != type:
                family.declared = type
                self._late[name] = None
            return 0
        for suffix in _SUFFIX_BYTES[type]:
            if name + suffix in self.by_sample_name:
                self._late[name] = None
        return self._create(name, type, declared=type)

    def add_untyped(self, name: bytes) -> int:
        """Adds a family for a sample without TYPE; returns the bytes of its names if it is new."""
        family = self._by_name.get(name)
        if family is None:
            return self._create(name, "untyped", declared=None)
        self.by_sample_name[name] = family
        return 0

    def _create(self, name: bytes, type: str, declared: str | None) -> int:
        selected_name = name + b"_info" if type == "info" else name
        family = ParsedFamily(name, type, self._keep(selected_name.decode()), declared)
        self._by_name[name] = family
        for suffix in _SUFFIX_BYTES[type]:
            self.by_sample_name.setdefault(name + suffix, family)
        return len(name) * len(_SUFFIX_BYTES[type])

    def finish(self, series_of: Callable[[bytes], ParsedSeries | None]) -> Iterator[ParsedFamily]:
        """Yields the families with samples. series_of: parses name and labels of a line."""
        for name in self._late:
            self._sort(name, series_of)
        for family in self._by_name.values():
            if family.lines and not self._is_dropped_creation_time(family):
                yield family

    def _sort(self, name: bytes, series_of: Callable[[bytes], ParsedSeries | None]) -> None:
        """Moves the lines to and from a family whose type was not known when they arrived."""
        family = self._by_name[name]
        last_type = family.declared or "untyped"
        sample_names = [name + suffix for suffix in _SUFFIX_BYTES[last_type]]
        sources = [family] + [
            other
            for sample_name in sample_names
            if (other := self._by_name.get(sample_name)) is not None
            and other is not family
            and other.declared is None
        ]
        lines = [line for source in sources for line in source.lines]
        for source in sources:
            source.lines = []
        self._by_name[name] = family = ParsedFamily(name, last_type, family.kept, last_type)
        for line in lines:
            series_text, _, value = line.rpartition(b" ")
            series = series_of(series_text)
            if series is None:  # cannot happen: the line has been parsed before
                continue
            owner = family
            if series.name not in sample_names:
                owner = self._by_name.get(series.name) or self._by_name.setdefault(
                    series.name,
                    ParsedFamily(series.name, "untyped", kept=True, declared=None),
                )
            owner.add_special(series, value)

    def _is_dropped_creation_time(self, family: ParsedFamily) -> bool:
        """Returns whether the samples are times of creation of a counter, histogram or summary."""
        base, created, rest = family.name.rpartition(_CREATED)
        if not created or rest or family.declared not in (None, "gauge", "untyped"):
            return False
        return any(
            (owner := self._by_name.get(name)) is not None
            and owner.declared in types
            and not self._keep_created(family.name.decode())
            for name, types in ((base, _WITH_CREATION_TIME), (base + b"_total", ("counter",)))
        )
