"""The exception hierarchy. Imports nothing of the project."""

from __future__ import annotations

from typing import ClassVar


class ExporterError(Exception):
    """Base class of the project's exceptions."""


class ConfigError(ExporterError):
    """An invalid setting. `str()` is the one-line message for the operator.

    origin: the file, environment variable or flag that sets it. key: the setting's name.
    """

    def __init__(self, origin: str, key: str, message: str) -> None:
        self.origin, self.key, self.message = origin, key, message
        super().__init__(f"{origin}: {key}: {message}" if key else f"{origin}: {message}")


class SourceError(ExporterError):
    """A source, or one of its targets, could not be read.

    kind: one of KINDS; the label value of the failure counters, and the key for logging once.
    subject: a part of the source, whose failures are logged apart from those of the others.
    remedy: how to fix it; listed by `check` and on the landing page.
    """

    kind: ClassVar[str] = "error"
    subject: str = ""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        super().__init__(message)


class NotFound(SourceError):
    """Not present on this host (no library, no socket, connection refused)."""

    kind = "not_found"


class NotYet(NotFound):
    """As NotFound, but cheap to check: retried at every interval, without backoff."""


class Unreachable(SourceError):
    """Present, but the connection failed or was interrupted."""

    kind = "unreachable"


class Forbidden(SourceError):
    """Present, but permission was denied."""

    kind = "forbidden"


class DeadlineExceeded(SourceError):
    """No response within the timeout, or an earlier call still hangs."""

    kind = "timeout"


class Expired(SourceError):
    """The last reading has expired before the next read has ended: the exporter is late.

    A peer that does not respond is a DeadlineExceeded: its timeout ends earlier.
    """

    kind = "timeout"


class BadData(SourceError):
    """The response cannot be parsed."""

    kind = "bad_data"


class LeftOut(BadData):
    """Parts of a file or a reply that cannot be parsed: they are left out, the rest was read.

    subject: the name of the file or reply, a constant of the code; each is logged once.
    """

    def __init__(self, message: str, remedy: str = "", *, subject: str = "") -> None:
        super().__init__(message, remedy)
        self.subject = subject


class Unsupported(SourceError):
    """The requested feature is not supported."""

    kind = "unsupported"


class TooMany(SourceError):
    """More than the limit: the excess was left out."""

    kind = "too_many"


class Internal(SourceError):
    """An unexpected exception: a bug of the exporter. Logged with its traceback."""

    kind = "internal"


KINDS = tuple(
    error.kind
    for error in (
        NotFound,
        Unreachable,
        Forbidden,
        DeadlineExceeded,
        BadData,
        Unsupported,
        TooMany,
        Internal,
    )
)
