"""Cheaper generated data: hypothesis takes 40 µs for a draw, and 2 ms for an example.

For data of many parts: draw the values that matter, such as texts and numbers, a few at a time, and
build the data from them by `Choices`. For values that take no time to test: ten in an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

T = TypeVar("T")


class Choices:
    """Numbers below 256, one for each choice; all choices after the last one are the first item."""

    def __init__(self, numbers: bytes) -> None:
        self._numbers = iter(numbers)

    def below(self, count: int) -> int:
        """Returns a number from 0 to count - 1."""
        return next(self._numbers, 0) % count

    def of(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], most: int) -> list[T]:
        """Returns up to `most` of the items, of which one may be repeated; none of no items."""
        return [self.of(items) for _ in range(self.below(most + 1))] if items else []


def choices(count: int) -> st.SearchStrategy[Choices]:
    """Returns a strategy of so many choices."""
    return st.binary(min_size=count, max_size=count).map(Choices)


TEN_EXAMPLES = settings(deadline=None, max_examples=10)


def ten(values: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """Returns a strategy of ten values; with TEN_EXAMPLES, a hundred in all."""
    return st.lists(values, min_size=10, max_size=10)
