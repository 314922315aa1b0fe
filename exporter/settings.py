"""Base classes and types of the settings; `config.py` loads them.

A setting is an annotated field of a frozen msgspec.Struct. Its type, bounds, default and
description are the only declaration: the YAML key, the environment variable, the flag, the
validation and the documentation are derived from it.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d))+\Z")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]*):(\d{1,5})\Z")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Duration(float):
    """Seconds; written as in Prometheus ("5s", "1m30s", "500ms") or as a plain number."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Parses a duration. Raises ValueError if it is not between 1 ms and ten years."""
        if isinstance(value, str) and _DURATION.match(value):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                seconds = float(value)
            except (ValueError, OverflowError):
                raise ValueError(f"{value!r:.80} is not a duration such as 5s or 500ms") from None
        else:
            # Not a list itself: with aliases, a few lines of YAML are a list of millions.
            shown = type(value).__name__ if isinstance(value, (dict, list)) else repr(value)
            raise ValueError(f"{shown} is not a duration such as 5s or 500ms")
        if not 0.001 <= seconds <= 315_360_000:
            raise ValueError(f"{value!r:.80}: a duration must be between 1ms and ten years")
        return cls(seconds)

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s", "ms"):
            count = self / _UNITS[unit]
            if count >= 1 and count == int(count):
                return f"{int(count)}{unit}"
        return f"{float(self)!r}s"


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A section of the settings."""


class SourceSettings(Section, frozen=True):
    """The settings of every source; a source's own `Settings` extends them."""

    enabled: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="auto: on if found; on: not found is a failure; off: never read"),
    ] = "auto"
    interval: Annotated[Duration, Meta(description="time between polls")] = Duration(5)
    timeout: Annotated[
        Duration,
        Meta(description="timeout of a poll of one target; after a timeout the target's `up` is 0"),
    ] = Duration(4)
    max_age: Annotated[
        Duration | None,
        Meta(
            description="age at which a target's series expire, and its `up` is 0; below interval "
            "+ timeout, also during a slow read; none: 3 intervals, but at least interval + "
            "timeout; if the next poll is due later than an interval, as much later"
        ),
    ] = None

    max_series: Annotated[
        int,
        Meta(
            description="limit of the source's series; above it whole metrics are left out, the "
            "last of docs/metrics.md first, and the target's `up` is 0",
            ge=1,
        ),
    ] = 50_000

    @property
    def expiry(self) -> float:
        """Seconds after which a reading expires."""
        if self.max_age is not None:
            return self.max_age
        # One poll may take no time and the next as long as the timeout.
        return max(3 * self.interval, self.interval + self.timeout)

    def check(self) -> None:
        """Validates values that depend on each other. Raises ValueError ("key: reason")."""
        if self.max_age is not None and self.max_age < self.interval:
            raise ValueError(
                f"max_age: {self.max_age} is less than the interval of {self.interval}: "
                "the series would expire between two polls"
            )


class Paths(Section, frozen=True):
    """Mount points of the host's file systems, for a daemon in a container."""

    procfs: Annotated[str, Meta(description="the host's /proc", min_length=1)] = "/proc"
    sysfs: Annotated[str, Meta(description="the host's /sys", min_length=1)] = "/sys"
    rootfs: Annotated[str, Meta(description="the host's root directory", min_length=1)] = "/"


def split_address(address: str) -> tuple[str | None, int]:
    """Splits host:port; returns None as the host for every address. Raises ValueError."""
    match = _ADDRESS.match(address)
    if not match or int(match[2]) > 65535:
        raise ValueError(f"listen_address: {address!r} is not host:port")
    return match[1].strip("[]") or None, int(match[2])
