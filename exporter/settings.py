"""The words settings are declared in: base classes and types. Loading them is `config.py`'s work.

A setting is one annotated field of a frozen msgspec.Struct; its type, bounds, default and
description are the only declaration: the YAML key, the environment variable, the flag, the check
and the documentation all come from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))+\Z")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Duration(float):
    """Seconds; written as Prometheus writes them ("5s", "1m30s", "500ms") or as a plain number."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Raises ValueError where it is no duration above zero and below ten years."""
        if isinstance(value, str) and _DURATION.match(value):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                seconds = float(value)
            except (ValueError, OverflowError):
                raise ValueError(f"{value!r} is not a duration such as 5s or 500ms") from None
        else:
            raise ValueError(f"{value!r} is not a duration such as 5s or 500ms")
        if not 0.001 <= seconds <= 315_360_000:
            raise ValueError(f"{value!r}: a duration must lie between 1ms and ten years")
        return cls(seconds)

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms"):
            count = self / _UNITS[unit]
            if count >= 1 and count == int(count):
                return f"{int(count)}{unit}"
        return f"{float(self)!r}s"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named group of settings."""


class SourceSettings(Section, frozen=True):
    """What every source can be told. A source's own `Settings` adds to it."""

    enabled: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="auto: use it if it is found; on: its absence is a failure; off: never"),
    ] = "auto"
    interval: Annotated[Duration, Meta(description="time from one poll to the next")] = Duration(5)
    timeout: Annotated[
        Duration, Meta(description="deadline of one poll of one instance; then its `up` is 0")
    ] = Duration(4)
    max_age: Annotated[
        Duration | None,
        Meta(
            description="age at which an instance's series vanish; none: 3 intervals, and no less "
            "than an interval and the deadline together"
        ),
    ] = None

    max_series: Annotated[
        int,
        Meta(
            description="most series of the source; metrics that do not fit are left out whole, "
            "the last of the table first",
            ge=1,
        ),
    ] = 50_000

    @property
    def expiry(self) -> float:
        """Seconds after which a reading is no longer shown."""
        if self.max_age is not None:
            return self.max_age
        # A reading may come as late as the deadline after one that came at once.
        return max(3 * self.interval, self.interval + self.timeout)

    def check(self) -> None:
        """Raises ValueError ("key: why") for values that do not go together."""
        if self.max_age is not None and self.max_age < self.interval:
            raise ValueError(
                f"max_age: {self.max_age} is less than the interval of {self.interval}: "
                "there would be nothing to show between two polls"
            )


class Paths(Section, frozen=True):
    """Where the host's files are; for a daemon in a container that sees them under a mount."""

    procfs: Annotated[str, Meta(description="the host's /proc", min_length=1)] = "/proc"
    sysfs: Annotated[str, Meta(description="the host's /sys", min_length=1)] = "/sys"
    rootfs: Annotated[str, Meta(description="the host's root directory", min_length=1)] = "/"
