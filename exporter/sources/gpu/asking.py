"""How one GPU is asked: what it does not support is remembered, what it says is checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar

from exporter.errors import BadData, NotFound, SourceError, Unsupported
from exporter.sources.gpu.nvml import Lost, Uninitialised, call

# Seconds until a GPU is asked again for what it said it does not support.
ASK_AGAIN = 3600.0
# NVML_VALUE_NOT_AVAILABLE of nvml.h, as the several integer types show it.
NOT_AVAILABLE = frozenset((-1, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF))

T = TypeVar("T")
Question = tuple[str, *tuple[object, ...]]
"""A function of pynvml and its arguments after the handle."""


class Asking:
    """The questions put to one GPU, in that GPU's thread.

    problems: what went wrong since `begin`, apart from what concerns the GPU as a whole.
    """

    def __init__(self) -> None:
        self.problems: list[SourceError] = []
        self._unsupported: dict[object, float] = {}

    def begin(self) -> None:
        """A new reading."""
        self.problems = []

    def forget(self) -> None:
        """Ask everything again: another card, another driver, may support other things."""
        self._unsupported.clear()

    def get(self, key: object, question: Callable[[], T]) -> T | None:
        """The answer; None where there is none, for which there is a problem unless unsupported.

        Raises Lost, Uninitialised, NotFound: then there is no use in asking any further.
        """
        if (when := self._unsupported.get(key)) is not None:
            if monotonic() < when:
                return None
            del self._unsupported[key]
        try:
            return question()
        except Unsupported:
            self._unsupported[key] = monotonic() + ASK_AGAIN
        except (Lost, Uninitialised, NotFound):
            raise
        except SourceError as error:
            self.problems.append(error)
        return None

    def first(self, handle: Any, *questions: Question) -> Any:
        """The answer to the first of the questions that is supported, or None."""
        for question in questions:
            function, *arguments = question
            answer = self.get(question, functools.partial(call, function, handle, *arguments))
            if question not in self._unsupported:
                return answer
        return None

    def believed(self, what: str, value: int | None, highest: int) -> int | None:
        """The value, where it is one: not the driver's "not available", not beyond reason."""
        if value is None or value in NOT_AVAILABLE:
            return None
        if not 0 <= value <= highest:
            self.problems.append(BadData(f"{what}: {value} is beyond reason"))
            return None
        return value
