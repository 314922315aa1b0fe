"""Log lines about a source's failures: one for each kind of failure, and one for its recovery.

A part of a reading that fails has a line for each kind and subject, such as a file of the kernel.

A server that is down for a week is one line, not one at every poll.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable

from exporter.errors import Internal, SourceError

log = logging.getLogger("exporter")

# Seconds without a kind of failure before it is logged again: neither a lasting failure nor a
# flapping one fills the log.
REPEAT_AFTER = 600.0
# Lines about failures of all targets of a source in that time.
MAX_LINES = 50


class LineBudget:
    """Limits the lines about the targets of a source: new ones may be discovered without end."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._began = -math.inf
        self._lines = 0

    def take(self) -> bool:
        """Returns whether another line may be logged; logs when the limit is reached."""
        now = time.monotonic()
        if now - self._began >= REPEAT_AFTER:
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines == MAX_LINES + 1:
            log.warning(
                "%s: more than %d failures of its targets: further ones are counted"
                " (inference_exporter_source_failures_total), and logged again in %g s",
                self._source,
                MAX_LINES,
                self._began + REPEAT_AFTER - now,
            )
        return self._lines <= MAX_LINES


class FailureLog:
    """Logs the failures of one source, or of one of its targets, within the budget of all."""

    def __init__(self, source: str, target: str = "", budget: LineBudget | None = None) -> None:
        self._name = f"{source} {target}".strip()
        self._budget = budget if budget is not None else LineBudget(source)
        self._seen: dict[str, float] = {}
        self._failing = False
        """Whether the last logged line is a failure."""

    def failed(self, error: SourceError) -> None:
        """Logs that the poll failed."""
        if self._new(error.kind):
            self._failing = True
            self._warn("", error)

    def succeeded(self, problems: Iterable[SourceError] = ()) -> None:
        """Logs the recovery, and the parts of the reading that failed."""
        if self._failing:
            log.info("%s: recovered", self._name)
            self._failing = False
        for problem in problems:
            if self._new(f"partial: {problem.kind} {problem.subject}"):
                self._warn("partial: ", problem)

    def not_found(self, error: SourceError) -> None:
        """Logs that the source is not on this host; not a failure, as no setting requires it."""
        if self._new(f"not found: {error.kind}"):
            log.info("%s: not found: %s", self._name, _line(error))

    def _new(self, kind: str) -> bool:
        """Whether to log the kind: it was not seen in the last REPEAT_AFTER seconds. Records it."""
        now = time.monotonic()
        last = self._seen.get(kind)
        self._seen[kind] = now
        return (last is None or now - last >= REPEAT_AFTER) and self._budget.take()

    def _warn(self, prefix: str, error: SourceError) -> None:
        # An expected error needs no traceback; a bug does.
        trace = error.__cause__ if isinstance(error, Internal) else None
        log.warning("%s: %s%s: %s", self._name, prefix, error.kind, _line(error), exc_info=trace)


def _line(error: SourceError) -> str:
    return f"{error.message}; {error.remedy}" if error.remedy else error.message
