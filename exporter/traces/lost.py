"""Counts traces that did not arrive: gaps in the numbers that a server gives its traces. Pure."""

from __future__ import annotations

# Seconds until a number that has not arrived is lost: several batches of the sender (5 s each).
SETTLE_SECONDS = 10.0
# Numbers kept until they settle; beyond, they settle early.
_MAX_NUMBERS = 50_000
# A gap as long as this is no loss but another numbering.
_MAX_GAP = 10_000_000


class LossCounter:
    """The numbers of one server's traces (triton.trace_id), which count from 1 at its start."""

    def __init__(self) -> None:
        self.lost = 0
        self._settled: int | None = None
        """All numbers up to this one are counted."""
        self._numbers: set[int] = set()
        self._late: set[int] = set()
        self._latest: list[tuple[float, int]] = []
        """Highest numbers, with the time they were seen at."""

    def add(self, number: int) -> None:
        """Adds the number of a trace that arrived."""
        if self._settled is not None and number <= self._settled:
            if len(self._late) < _MAX_NUMBERS:
                self._late.add(number)
        elif len(self._numbers) < _MAX_NUMBERS:
            self._numbers.add(number)

    def settle(self, now: float) -> None:
        """Counts the gaps among the numbers that arrived SETTLE_SECONDS ago."""
        if self._late and not self._numbers:
            # Lower numbers only: the server has restarted, and counts from the beginning.
            self._numbers, self._settled = self._late, None
            self._latest.clear()
        self._late = set()
        if not self._numbers:
            return
        if self._settled is None:
            self._settled = min(self._numbers) - 1
        self._latest.append((now, max(self._numbers)))
        full = len(self._numbers) >= _MAX_NUMBERS
        settled = self._settled
        while self._latest and (full or now - self._latest[0][0] >= SETTLE_SECONDS):
            settled = max(settled, self._latest.pop(0)[1])
        if settled == self._settled:
            return
        arrived = {number for number in self._numbers if number <= settled}
        missing = settled - self._settled - len(arrived)
        if missing <= _MAX_GAP and not full:
            self.lost += missing
        self._numbers -= arrived
        self._settled = settled
