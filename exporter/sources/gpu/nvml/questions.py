"""Questions that are not asked at every poll, and their answers in between.

An answer is at most its pace and one poll old: a question that fails has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import or_
from typing import Any

from exporter.sources.gpu.nvml.query import NvmlQuery, monotonic_seconds
from exporter.sources.gpu.reading import GpuValues

# Polls are not exactly periodic: a question is due a tenth of its pace early, or it would be asked
# at every second poll of an interval equal to its pace.
_EARLY = 0.1

Ask = Callable[[Any, GpuValues], None]
"""Takes a handle, asks, and adds the values of the answer. Raises as NvmlQuery.try_call."""


class Question:
    """A question with a pace, and its last answer.

    reasons: clock event reasons (the bits of nvmlClocksEventReasons) during which it is asked at
    every poll.
    """

    def __init__(self, ask: Ask, pace: float, reasons: int = 0) -> None:
        self.answer = GpuValues()
        self.due_at = 0.0
        """Time (monotonic seconds) from which it is due."""
        self.reasons = reasons
        self.pace = pace
        self._ask = ask

    def expire(self) -> None:
        """Makes the question due now."""
        self.due_at = 0.0

    def ask(self, query: NvmlQuery, handle: Any, now: float) -> None:
        """Replaces the answer. A failed part has no value, and is asked again at the next poll."""
        problems = len(query.problems)
        self.answer = GpuValues()
        self.due_at = 0.0  # if asking raises
        self._ask(handle, self.answer)
        if len(query.problems) == problems:
            self.due_at = now + self.pace * (1 - _EARLY)


class Questions:
    """The questions of one GPU that are not asked at every poll. Runs in that GPU's thread."""

    def __init__(self, query: NvmlQuery, questions: Iterable[Question]) -> None:
        self._query = query
        self._questions = tuple(questions)
        self._by_pace: dict[float, list[Question]] = {}
        for question in sorted(self._questions, key=lambda question: question.pace):
            self._by_pace.setdefault(question.pace, []).append(question)
        self._answers_by_pace: dict[float, GpuValues] = {}
        self._answers = GpuValues()
        self._due_at = 0.0
        self._last_reasons = 0
        self._reasons = reduce(or_, (question.reasons for question in self._questions), 0)

    def reset(self) -> None:
        """Drops all answers: of another card, driver or MIG mode, or from before a suspension."""
        for question in self._questions:
            question.answer = GpuValues()
            question.expire()
        self._answers_by_pace.clear()
        self._answers = GpuValues()
        self._due_at = 0.0

    def read(self, handle: Any, values: GpuValues, reasons: int) -> None:
        """Asks the questions that are due, and adds the answers of all to the values.

        reasons: active clock event reasons. At the poll after the last of them, their questions are
        asked again, for the final answer. Raises as NvmlQuery.try_call.
        """
        now, pressing = monotonic_seconds(), reasons | self._last_reasons
        self._last_reasons = reasons
        if now >= self._due_at or pressing & self._reasons:
            asked: set[float] = set()
            for question in self._questions:  # one may make a later one due
                if now >= question.due_at or pressing & question.reasons:
                    asked.add(question.pace)
                    question.ask(self._query, handle, now)
            self._merge(asked)
            self._due_at = min(question.due_at for question in self._questions)
        values.update(self._answers)

    def _merge(self, asked: Iterable[float]) -> None:
        """Merges the answers; again those of the paces of which a question was asked."""
        for pace in asked:
            self._answers_by_pace[pace] = _merged(
                question.answer for question in self._by_pace[pace]
            )
        self._answers = _merged(
            self._answers_by_pace[pace] for pace in self._by_pace if pace in self._answers_by_pace
        )


def _merged(answers: Iterable[GpuValues]) -> GpuValues:
    values = GpuValues()
    for answer in answers:
        values.update(answer)
    return values
