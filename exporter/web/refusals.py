"""Counts what the web server refuses, by reason, for the log and the exporter's own metrics."""

from __future__ import annotations

import logging
import math
import time
from enum import Enum

from exporter.errors import SourceError

log = logging.getLogger("exporter")

# Seconds between two log lines for the same reason; the line contains the count.
REFUSAL_LOG_INTERVAL = 60.0


class Refusal(Enum):
    """A reason to refuse a client. label: in the metric; text: in the log."""

    def __init__(self, label: str, text: str) -> None:
        self.label, self.text = label, text

    BODY = "body", "a request has a body that no path needs"
    CERTIFICATE = "certificate", "client certificates without an allowed name"
    CONNECTIONS = (
        "connections",
        "connection limit reached: the client with the most loses one",
    )
    CONNECTIONS_BUSY = (
        "connections_busy",
        "connection limit reached: too many connections of one client wait to be opened",
    )
    CREDENTIALS = "credentials", "a request without valid credentials"
    DESCRIPTORS = "descriptors", "cannot accept connections: too few file descriptors or memory"
    GUESSES = "guesses", "too many passwords of one client to compare"
    HANDSHAKE = "handshake", "TLS handshakes failed"
    MALFORMED = "malformed", "a request is not valid HTTP"
    RATE = "rate", "rate limit reached (rate_limit of the web configuration)"
    REQUEST_SIZE = "request_size", "a request is larger than allowed"
    REQUESTS = "requests", "request limit reached (--web.max-requests)"
    RESPONSE_BYTES = "response_bytes", "too many bytes of responses in progress"
    STALLED = "stalled", "a client that does not read its response is disconnected for another"


class Refusals:
    """Counts refusals and errors. Used from the event loop only."""

    def __init__(self, server: str = "web") -> None:
        """server: the name of the server in its log lines."""
        self._server = server
        self._counts = dict.fromkeys(Refusal, 0)
        # By log line: time of the last one, and the count since.
        self._logged: dict[str, tuple[float, int]] = {}

    def totals(self) -> tuple[tuple[str, int], ...]:
        """Returns the refusals since the start by label, every reason included."""
        return tuple((refusal.label, count) for refusal, count in self._counts.items())

    def count(self, refusal: Refusal) -> None:
        """Counts a refusal; logs the count at most every REFUSAL_LOG_INTERVAL."""
        self._counts[refusal] += 1
        if count := self._count_to_log(refusal.text):
            log.warning("%s: %s (%d times)", self._server, refusal.text, count)

    def log_error(self, error: BaseException | None) -> None:
        """Logs an exception, an unexpected one with its traceback, as rarely as a refusal."""
        expected = isinstance(error, SourceError)
        reason = f"a request failed: {error if expected else type(error).__name__}"
        if count := self._count_to_log(reason):
            log.error(
                "%s: %s (%d times)",
                self._server,
                reason,
                count,
                exc_info=None if expected else error,
            )

    def _count_to_log(self, reason: str) -> int:
        """Returns the count since the last log line if another is due; else 0."""
        last_logged, count = self._logged.get(reason, (-math.inf, 0))
        count += 1
        now = time.monotonic()
        due = now - last_logged >= REFUSAL_LOG_INTERVAL
        self._logged[reason] = (now, 0) if due else (last_logged, count)
        return count if due else 0
