"""Caches the series of one family from reading to reading.

The prefix of a line, `name{labels} `, is built once and kept while the series exists; the text of
an unchanged number is kept too. That makes rendering cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from operator import is_
from typing import Any

from exporter.exposition.formatting import escape_label_value, format_number, format_numbers
from exporter.model import Exemplar, LabelPairs, Type

SeriesKey = tuple[Hashable, ...]

# Keys, numbers and parts of all families without series, such as half of a GPU's; never changed.
_NONE: list[Any] = []


class Series:
    """The series of one family of one target.

    label_pairs: returns a key's pairs of label name and value in the order of the page. The last
    element of a histogram's key is its bounds.
    """

    __slots__ = (
        "_kept_prefixes",
        "_label_pairs",
        "_name",
        "_numbers",
        "_parts",
        "_unique",
        "data",
        "duplicates",
        "keys",
        "lines",
        "type",
    )

    def __init__(
        self, name: str, type_: Type, label_pairs: Callable[[SeriesKey], LabelPairs]
    ) -> None:
        self._name = name
        self.type = type_
        self._label_pairs = label_pairs
        self.clear()

    def clear(self) -> None:
        """Drops all series."""
        # By key: prefixes kept by `invalidate`; None to take those of the current keys.
        self._kept_prefixes: dict[Any, list[str]] | None = None
        self.keys: list[Any] = _NONE
        """The keys of the last reading; the same list object while they are equal."""
        self.duplicates = 0
        """Number of keys left out because an earlier key has the same prefix."""
        # Indices of the keys that are not duplicates; None if all.
        self._unique: list[int] | None = None
        self._numbers: list[Any] = _NONE
        # The prefix and the number of each line, alternating.
        self._parts: list[str] = _NONE
        self.lines = 0
        """Number of lines of the last rendering."""
        self.data = b""
        """All lines of the last rendering."""

    def invalidate(self, changed: Container[Any]) -> None:
        """Drops the prefixes of these keys, whose labels have changed, and keeps the others.

        The lines stay until the next rendering.
        """
        self._kept_prefixes = {
            key: prefixes for key, prefixes in self._current_prefixes() if key not in changed
        }
        self.keys = _NONE

    def line_count(self, keys: Sequence[Any]) -> int:
        """Returns the number of lines of these keys."""
        if self.type is Type.HISTOGRAM:
            return sum(len(key[-1]) + (3 if _has_sum(key[-1]) else 0) for key in keys)
        return len(keys) * (2 if self.type is Type.SUMMARY else 1)

    def render(self, keys: list[Any], values: Sequence[Any]) -> bytes:
        """Returns all lines. values: one for each key.

        Raises any exception that a bad key or value causes, and drops all series then.
        """
        try:
            return self._render(keys, values)
        except Exception:
            self.clear()  # the state may be half updated
            raise

    def _render(self, keys: list[Any], values: Sequence[Any]) -> bytes:
        if self._kept_prefixes is not None or (keys is not self.keys and keys != self.keys):
            self._set_keys(keys)
        if self._unique is not None:
            values = [values[i] for i in self._unique]
        numbers = self._line_values(values)
        previous = self._numbers
        if all(map(is_, numbers, previous)):  # much faster than the comparison below
            return self.data
        # Equal numbers have equal text, except 0.0 and -0.0.
        changed = [
            i
            for i, (new, old) in enumerate(zip(numbers, previous, strict=True))
            if new is not old and (new != old or not new)
        ]
        if changed:
            parts = self._parts
            if len(numbers) == 1:  # most families of most targets
                parts[1] = f"{format_number(numbers[0])}\n"
            elif len(changed) == len(numbers):
                parts[1::2] = [f"{text}\n" for text in format_numbers(numbers)]
            else:
                texts = format_numbers([numbers[i] for i in changed])
                for i, text in zip(changed, texts, strict=True):
                    parts[2 * i + 1] = f"{text}\n"
            self.data = "".join(parts).encode()
            self._numbers = numbers
        return self.data

    def with_exemplars(self, values: Sequence[Any]) -> bytes:
        """Returns the lines of histograms, as rendered last, with their exemplars.

        values: of the last `render`. Raises any exception that a bad exemplar causes.
        """
        parts = self._parts.copy()
        unique = self._unique if self._unique is not None else range(len(values))
        line = 0
        for i in unique:
            for offset, exemplar in enumerate(values[i].exemplars):
                if exemplar is not None:
                    number = parts[2 * (line + offset) + 1].rstrip("\n")
                    parts[2 * (line + offset) + 1] = f"{number}{_exemplar_text(exemplar)}\n"
            line += self.line_count((self.keys[i],))
        return "".join(parts).encode()

    def _line_values(self, values: Sequence[Any]) -> list[Any]:
        """Returns the number of each line, in order."""
        if self.type is Type.SUMMARY:
            return [part for value in values for part in (value.count, value.sum)]
        if self.type is Type.HISTOGRAM:
            return [
                part
                for value in values
                for part in (
                    *value.buckets,
                    value.count,
                    *(() if value.sum is None else (value.count, value.sum)),
                )
            ]
        return list(values)

    def _set_keys(self, keys: list[Any]) -> None:
        """Replaces the keys; known keys keep their prefixes."""
        known = self._kept_prefixes
        if known is None:
            known = dict(self._current_prefixes())
        self._kept_prefixes = None
        parts: list[str] = []
        unique: list[int] = []
        seen: set[str] = set()
        for i, key in enumerate(keys):
            prefixes = known.get(key) or self._prefixes(key)
            # Compare prefixes, not keys: different keys can have the same label values as text.
            if prefixes[0] in seen:
                continue
            seen.add(prefixes[0])
            unique.append(i)
            for prefix in prefixes:
                parts += (prefix, "")
        self.keys = keys
        self.duplicates = len(keys) - len(unique)
        self._unique = unique if self.duplicates else None
        self._parts = parts
        self.lines = len(parts) // 2
        self._numbers = [None] * self.lines
        self.data = b""

    def _current_prefixes(self) -> Iterable[tuple[Any, list[str]]]:
        """Yields the keys without duplicates, each with its prefixes."""
        start = 0
        for i in self._unique if self._unique is not None else range(len(self.keys)):
            key = self.keys[i]
            end = start + self.line_count((key,))
            yield key, self._parts[2 * start : 2 * end : 2]
            start = end

    def _prefixes(self, key: SeriesKey) -> list[str]:
        """Returns the prefixes of a key, in the order of its lines."""
        name = self._name
        pairs = [
            f'{label}="{escape_label_value(value)}"' for label, value in self._label_pairs(key)
        ]
        braces = f"{{{','.join(pairs)}}}" if pairs else ""
        if self.type not in (Type.SUMMARY, Type.HISTOGRAM):
            return [f"{name}{braces} "]
        prefixes = [f"{name}_count{braces} ", f"{name}_sum{braces} "]
        if self.type is Type.HISTOGRAM:
            bounds: Any = key[-1]
            if not _has_sum(bounds):
                bounds = bounds[1:]
                prefixes.clear()  # OpenMetrics has a count only with a sum
            le_index = sum(pair < 'le="' for pair in pairs)
            texts = [*map(format_number, bounds), "+Inf"]
            labels = [
                ",".join([*pairs[:le_index], f'le="{text}"', *pairs[le_index:]]) for text in texts
            ]
            prefixes[:0] = [f"{name}_bucket{{{bucket_labels}}} " for bucket_labels in labels]
        return prefixes


def _exemplar_text(exemplar: Exemplar) -> str:
    """Returns ` # {trace_id="…"} VALUE TIMESTAMP`, as prometheus_client writes it."""
    trace_id = escape_label_value(exemplar.trace_id)
    value = format_number(exemplar.value)
    return f' # {{trace_id="{trace_id}"}} {value} {exemplar.timestamp}'


def _has_sum(bounds: Any) -> bool:
    """Returns whether a histogram has a sum; without one, its bounds in a key start with None."""
    return not bounds or bounds[0] is not None
