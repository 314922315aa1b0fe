"""What the log hears of a source: each kind of failure once, and when it is over.

A server that is down for a week is one line, not one a poll.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from exporter.errors import Internal, SourceError

log = logging.getLogger("exporter")

# A kind of failure is told again only when it was not seen for this long, in seconds: what lasts
# is told once, and what comes and goes at every poll must not fill the log either.
REPEAT_AFTER = 600.0


class FailureLog:
    """The log of one source, or of one target of it."""

    def __init__(self, source: str, target: str = "") -> None:
        self._who = f"{source} {target}".strip()
        self._seen: dict[str, float] = {}
        self._told_failing = False

    def failed(self, error: SourceError) -> None:
        """The whole attempt failed."""
        if self._new(error.kind):
            self._told_failing = True
            self._warn("", error)

    def succeeded(self, problems: Iterable[SourceError] = ()) -> None:
        """The attempt gave a reading; problems: what it had to leave out."""
        if self._told_failing:
            log.info("%s: answers again", self._who)
            self._told_failing = False
        for problem in problems:
            if self._new(f"in part: {problem.kind}"):
                self._warn("in part: ", problem)

    def absent(self, error: SourceError) -> None:
        """The source is not on this host, and nobody asked for it."""
        if self._new(f"absent: {error.kind}"):
            log.info("%s: not found: %s", self._who, _line(error))

    def _new(self, kind: str) -> bool:
        """Whether a kind was not seen lately; it is seen now."""
        now = time.monotonic()
        last = self._seen.get(kind)
        self._seen[kind] = now
        return last is None or now - last >= REPEAT_AFTER

    def _warn(self, prefix: str, error: SourceError) -> None:
        # A foreseen error says all in its words; of a defect the place in the code is wanted too.
        trace = error.__cause__ if isinstance(error, Internal) else None
        log.warning("%s: %s%s: %s", self._who, prefix, error.kind, _line(error), exc_info=trace)


def _line(error: SourceError) -> str:
    return f"{error.message}; {error.remedy}" if error.remedy else error.message
