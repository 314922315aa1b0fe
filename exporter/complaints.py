"""What the log hears of a source: each kind of failure once, and when it is over.

A server that is down for a week is one line, not one a poll.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from exporter.errors import Internal, SourceError

log = logging.getLogger("exporter")

# A kind that went away and came back is told again only after this long, in seconds: something
# that flaps at every poll must not fill the log either.
REPEAT_AFTER = 600.0


class Complaints:
    """The log of one source, or of one target of it."""

    def __init__(self, source: str, target: str = "") -> None:
        self._who = f"{source} {target}".strip()
        self._said: dict[str, float] = {}
        self._failing: set[str] = set()

    def failed(self, error: SourceError) -> None:
        """The whole attempt failed."""
        self._say(error, "")
        self._failing.add(error.kind)

    def succeeded(self, problems: Iterable[SourceError] = ()) -> None:
        """The attempt gave a reading; problems: what it had to leave out."""
        if self._failing:
            log.info("%s: answers again", self._who)
            self._failing.clear()
        for problem in problems:
            self._say(problem, "in part: ")

    def absent(self, error: SourceError) -> None:
        """The source is not on this host, and nobody asked for it."""
        if error.kind not in self._said:
            log.info("%s: not found: %s", self._who, _line(error))
        self._said[error.kind] = time.monotonic()

    def _say(self, error: SourceError, prefix: str) -> None:
        now = time.monotonic()
        kind = f"{prefix}{error.kind}"
        if error.kind in self._failing:
            return
        if now - self._said.get(kind, -REPEAT_AFTER) < REPEAT_AFTER:
            return
        self._said[kind] = now
        # A foreseen error says all in its words; of a defect the place in the code is wanted too.
        trace = error.__cause__ if isinstance(error, Internal) else None
        log.warning("%s: %s%s: %s", self._who, prefix, error.kind, _line(error), exc_info=trace)


def _line(error: SourceError) -> str:
    return f"{error.message}; {error.remedy}" if error.remedy else error.message
