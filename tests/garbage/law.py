"""The permitted cost of a damage: the series that depend on the damaged part."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import SourceError
from exporter.model import Metric, Reading, Type
from tests.garbage import mutations
from tests.garbage.mutations import Damage, Kind
from tests.sources.samples import declared_values

Series = tuple[str, tuple[str, ...]]
"""A metric's name, and label values."""
Values = dict[Series, float]
# A number above is an underflow of 64 bits, whatever its unit.
LARGEST = 2**62
_PART_OF_VALUE = re.compile(r"_(sum|count|bucket[\d.]+)$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The series of a read, and its problems. failed: the error, if nothing could be read."""

    values: Values
    problems: tuple[SourceError, ...] = ()
    failed: SourceError | None = None


@dataclass(slots=True)
class Fixture:
    """One file or reply of a reader, with the other ones intact.

    content: bytes of lines, or a JSON document. read: reads it. counters: names of counters.
    counted: metrics whose value is a number of lines or elements, or a sum over them: a damaged one
        may change it.
    depends: metrics that depend on the parts that match: a pattern of the line's text, or of the
        path of the member ("State.Pid"), and one of the metrics' names.
    silent: metrics whose loss is not a fault: an invalid limit is none.
    """

    name: str
    content: Any
    read: Callable[[bytes], Outcome]
    counters: frozenset[str] = frozenset()
    counted: str = "nothing"
    depends: tuple[tuple[str, str], ...] = ()
    silent: str = "nothing"
    doubled: str = "nothing"
    _baseline: Outcome | None = None
    _dependent: dict[Any, set[Series]] = field(default_factory=dict)

    @property
    def baseline(self) -> Outcome:
        if self._baseline is None:
            self._baseline = self.read(self.intact)
            assert self._baseline.values, f"{self.name}: the fixture has no series"
            assert not self._baseline.problems, f"{self.name}: {self._baseline.problems}"
        return self._baseline

    @property
    def intact(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        return json.dumps(self.content).encode()

    def parts(self) -> list[Any]:
        """Returns all parts: the numbers of the lines, or the paths of the members."""
        if isinstance(self.content, bytes):
            lines = self.content.split(b"\n")
            return [number for number, line in enumerate(lines) if line]
        return list(mutations.paths(self.content))

    def damages(self, part: Any) -> Iterator[Damage]:
        """Yields all damages of a part."""
        if isinstance(self.content, bytes):
            return mutations.line_damages(self.content, part)
        return mutations.member_damages(self.content, part)

    def dependent(self, part: Any) -> set[Series]:
        """Returns the series that depend on a part: those that change with its valid numbers, those
        with a label from it, and those that the fixture declares.
        """
        if part not in self._dependent:
            probes, text, words = self._part(part)
            series = set()
            intact = self.baseline.values
            for probe in probes:
                values = self.read(probe).values
                series |= {key for key, value in intact.items() if values.get(key) != value}
            for key in intact:
                metric, labels = key
                if any(word in label for label in labels for word in words):
                    series.add(key)
                if any(
                    re.search(part_pattern, text) and re.fullmatch(metric_pattern, metric)
                    for part_pattern, metric_pattern in self.depends
                ):
                    series.add(key)
            # The series of a summary or histogram are one value.
            whole = {(_PART_OF_VALUE.sub("", metric), labels) for metric, labels in series}
            self._dependent[part] = {
                (metric, labels)
                for metric, labels in intact
                if (_PART_OF_VALUE.sub("", metric), labels) in whole
            }
        return self._dependent[part]

    def value(self, series: Series) -> float:
        return self.baseline.values[series]

    def _part(self, part: Any) -> tuple[Iterator[bytes], str, list[str]]:
        """Returns the probes of a part, its text for `depends`, and the words that are labels."""
        if isinstance(self.content, bytes):
            line = self.content.split(b"\n")[part].decode("utf-8", "replace")
            words = [word.strip(":") for word in line.split() if not word.isdigit()]
            return (
                mutations.line_probes(self.content, part),
                line,
                [word for word in words if len(word.strip("0123456789.:")) > 1],
            )
        inner = list(mutations.paths(mutations.at(self.content, part), part)) or [part]
        values = [mutations.at(self.content, path) for path in (part, *inner)]
        return (
            (
                probe
                for path in {part, *inner}
                for probe in mutations.member_probes(self.content, path)
            ),
            " ".join(".".join(map(str, path)) for path in (part, *inner)),
            [value for value in values if isinstance(value, str) and len(value) > 1],
        )

    def check(self, damage: Damage) -> None:
        """Reads the damaged content. Raises AssertionError if it costs more than it may."""
        where = f"{self.name}: {damage.kind.name} {damage.text[:400]}"
        outcome = self.read(damage.content)
        values = outcome.values
        if outcome.failed is None and values == self.baseline.values:
            return  # nothing is lost, changed or added: no need to find what depends on the part
        dependent = self.dependent(damage.part)
        lost_wrongly = {
            key: (value, values.get(key))
            for key, value in self.baseline.values.items()
            if key not in dependent and values.get(key) != value
        }
        assert not lost_wrongly, f"{where}: changes {lost_wrongly} {outcome.problems}"
        assert outcome.failed is None or dependent >= self.baseline.values.keys(), (
            f"{where}: {outcome.failed}"
        )
        # A damaged name is another name.
        named = self.baseline.values if damage.kind is Kind.CHARACTER else dependent
        new = values.keys() - self.baseline.values.keys()
        assert _metrics(new) <= _metrics(named), f"{where}: adds {new}"
        for key, number in values.items():
            assert math.isfinite(number), f"{where}: {key} is {number}"
            if key[0] in self.counters:
                assert 0 <= number < LARGEST, f"{where}: {key} is {number}"
        self._check_kind(damage, outcome, where)

    def _check_kind(self, damage: Damage, outcome: Outcome, where: str) -> None:
        values, dependent = outcome.values, self.dependent(damage.part)
        if damage.kind is Kind.DOUBLED:
            others = {
                key: (value, values.get(key))
                for key, value in self.baseline.values.items()
                if not re.fullmatch(self.doubled, key[0]) and values.get(key) != value
            }
            assert not others, f"{where}: changes {others}"
            return
        if damage.kind is not Kind.NUMBER:
            return
        wrong = {
            key: (self.value(key), values[key])
            for key in dependent & values.keys()
            if not re.fullmatch(self.counted, key[0]) and values[key] != self.value(key)
        }
        assert not wrong, f"{where}: shows {wrong}"
        if damage.silent:
            return
        lost = {key for key in dependent - values.keys() if not re.fullmatch(self.silent, key[0])}
        assert not lost or outcome.problems or outcome.failed, f"{where}: no problem for {lost}"


def _metrics(keys: Iterable[Series]) -> set[str]:
    return {_PART_OF_VALUE.sub("", metric) for metric, _ in keys}


def series(metrics: tuple[Metric[Any], ...], reading: Reading) -> Values:
    """Returns the series of a reading. Fails for a duplicate, and for a value that is no number."""
    values: Values = {}
    for metric, labels, value in declared_values(metrics, reading):
        if value is None:
            continue
        assert "".join(labels).encode() is not None
        for suffix, number in _numbers(value):
            key = (metric.name + suffix, labels)
            assert key not in values, f"duplicate series {key}"
            values[key] = number
    return values


def _numbers(value: Any) -> Iterator[tuple[str, float]]:
    """Yields the numbers of a value by the suffix of their series."""
    if isinstance(value, (int, float)):
        yield "", value
        return
    if hasattr(value, "buckets"):
        for bound, number in zip(value.bounds, value.buckets, strict=True):
            yield f"_bucket{bound}", number
    if hasattr(value, "sum"):
        yield "_sum", value.sum
        yield "_count", value.count
    else:
        yield "", value


def counters(metrics: tuple[Metric[Any], ...]) -> frozenset[str]:
    """Returns the names of the series that are counters."""
    names = set()
    for metric in metrics:
        if metric.type is Type.COUNTER:
            names.add(metric.name)
        elif metric.type in (Type.SUMMARY, Type.HISTOGRAM):
            names |= {f"{metric.name}_sum", f"{metric.name}_count"}
    return frozenset(names)
