"""What can go wrong, as a small hierarchy. Imports nothing of the project."""

from __future__ import annotations

from typing import ClassVar


class ExporterError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(ExporterError):
    """A setting that cannot be used. `str()` is the one line a user reads.

    origin: where it was set (a file, an environment variable, a flag); key: which setting.
    """

    def __init__(self, origin: str, key: str, message: str) -> None:
        self.origin, self.key, self.message = origin, key, message
        super().__init__(f"{origin}: {key}: {message}" if key else f"{origin}: {message}")


class SourceError(ExporterError):
    """A source, or one instance of it, could not be read.

    kind: one of a fixed few words; it is a label value and the key for logging once per kind.
    remedy: what a person can do about it, shown by `check` and on the landing page.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        super().__init__(message)


class NotFound(SourceError):
    """The thing is not on this host at all (no library, no socket, nobody listening)."""

    kind = "not_found"


class NotYet(NotFound):
    """As NotFound; looking again at every interval costs nothing."""


class Unreachable(SourceError):
    """It is there, but the connection failed or broke off."""

    kind = "unreachable"


class Forbidden(SourceError):
    """It is there, but we may not use it."""

    kind = "forbidden"


class DeadlineExceeded(SourceError):
    """It did not answer in time, or an earlier call still hangs."""

    kind = "timeout"


class BadData(SourceError):
    """It answered something that cannot be understood."""

    kind = "bad_data"


class Unsupported(SourceError):
    """It answered that it does not offer what was asked."""

    kind = "unsupported"


class TooMany(SourceError):
    """There is more of it than is shown."""

    kind = "too_many"


class Internal(SourceError):
    """An error nobody foresaw: a defect of ours. Logged with its traceback."""

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
