"""The series of one family: their prefixes and lines, kept from reading to reading.

What precedes the number, `name{labels} `, is made once and kept while the series lives; the text
of a number that has not changed is kept too. That is what makes rendering cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from typing import Any

from exporter.exposition.formatting import escape_label_value, format_number, format_numbers
from exporter.model import LabelPairs, Type

SeriesKey = tuple[Hashable, ...]


class Series:
    """The series of one family of one target.

    describe: gives, for a key, the pairs of label name and value in the order of the page. Of a
    histogram, the last element of a key is its bounds.
    """

    def __init__(self, name: str, type_: Type, describe: Callable[[SeriesKey], LabelPairs]) -> None:
        self._name = name
        self._type = type_
        self._describe = describe
        self.forget()

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self._parts) // 2

    def forget(self) -> None:
        """Keep nothing."""
        self._known: dict[Any, list[str]] | None = None
        self.keys: list[Any] = []
        """The keys as last given: the same list while they are equal."""
        self.twice = 0
        """How many of them came a second time and are left out."""
        self._picked: list[int] | None = None
        self._numbers: list[Any] = []
        # In turns the prefix and the number of each line.
        self._parts: list[str] = []
        self._data = b""

    def remake(self, changed: Container[Any]) -> None:
        """Describe these keys anew; the prefixes of the others are kept."""
        self._known = {key: heads for key, heads in self._heads() if key not in changed}
        self.keys = []

    def width(self, keys: Sequence[Any]) -> int:
        """How many lines so many keys make."""
        if self._type is Type.HISTOGRAM:
            return sum(len(key[-1]) + 3 for key in keys)
        return len(keys) * (2 if self._type is Type.SUMMARY else 1)

    def render(self, keys: list[Any], values: Sequence[Any]) -> bytes:
        """All lines. values: one for each key. Raises what a bad key or value makes it raise."""
        if not keys and not self.keys:
            return b""
        try:
            return self._render(keys, values)
        except Exception:
            self.forget()  # nothing half done stays
            raise

    def _render(self, keys: list[Any], values: Sequence[Any]) -> bytes:
        if keys is not self.keys and keys != self.keys:
            self._rekey(keys)
        if self._picked is not None:
            values = [values[i] for i in self._picked]
        now = self._flat(values)
        before = self._numbers
        # An equal number has an equal text, but for the sign of zero.
        changed = [
            i
            for i, (new, old) in enumerate(zip(now, before, strict=True))
            if new is not old and (new != old or not new)
        ]
        if changed:
            parts = self._parts
            if len(changed) == len(now):
                parts[1::2] = [f"{text}\n" for text in format_numbers(now)]
            else:
                for i, text in zip(changed, format_numbers([now[i] for i in changed]), strict=True):
                    parts[2 * i + 1] = f"{text}\n"
            self._data = "".join(parts).encode()
            self._numbers = now
        return self._data

    def _flat(self, values: Sequence[Any]) -> list[Any]:
        """The numbers in the order of the lines."""
        if self._type is Type.SUMMARY:
            return [part for value in values for part in (value.count, value.sum)]
        if self._type is Type.HISTOGRAM:
            return [
                part
                for value in values
                for part in (*value.buckets, value.count, value.count, value.sum)
            ]
        return list(values)

    def _rekey(self, keys: list[Any]) -> None:
        """Take other keys; the prefixes of those that were there before are kept."""
        known = self._known if self._known is not None else dict(self._heads())
        self._known = None
        parts: list[str] = []
        picked: list[int] = []
        seen: set[str] = set()
        for i, key in enumerate(keys):
            heads = known.get(key) or self._make(key)
            # By the prefix and not the key: two keys may differ in what cannot be written.
            if heads[0] in seen:
                continue
            seen.add(heads[0])
            picked.append(i)
            for head in heads:
                parts += (head, "")
        self.keys = keys
        self.twice = len(keys) - len(picked)
        self._picked = picked if self.twice else None
        self._parts = parts
        self._numbers = [None] * len(self)
        self._data = b""

    def _heads(self) -> Iterable[tuple[Any, list[str]]]:
        """The keys that are shown, each with its prefixes."""
        place = 0
        for i in self._picked if self._picked is not None else range(len(self.keys)):
            key = self.keys[i]
            end = place + self.width((key,))
            yield key, self._parts[2 * place : 2 * end : 2]
            place = end

    def _make(self, key: SeriesKey) -> list[str]:
        """The prefixes of one key, in the order of its lines."""
        name = self._name
        pairs = [f'{label}="{escape_label_value(value)}"' for label, value in self._describe(key)]
        braces = f"{{{','.join(pairs)}}}" if pairs else ""
        if self._type not in (Type.SUMMARY, Type.HISTOGRAM):
            return [f"{name}{braces} "]
        heads = [f"{name}_count{braces} ", f"{name}_sum{braces} "]
        if self._type is Type.HISTOGRAM:
            bounds: Any = key[-1]
            place = sum(pair < 'le="' for pair in pairs)
            texts = [*map(format_number, bounds), "+Inf"]
            inner = [",".join([*pairs[:place], f'le="{text}"', *pairs[place:]]) for text in texts]
            heads[:0] = [f"{name}_bucket{{{labels}}} " for labels in inner]
        return heads
