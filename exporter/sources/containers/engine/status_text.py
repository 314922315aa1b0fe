"""What the words of a container's status in the engine's list tell: "Up 5 minutes (healthy)"."""

from __future__ import annotations

import re

# As Docker's units.HumanDuration writes it: "Up 5 seconds", "Up About an hour (healthy)".
_UP = re.compile(
    r"Up (?:(\d{1,9})|Less than a|About an?) (second|minute|hour|day|week|month|year)s?"
)
_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "month": 2_592_000,
    "year": 31_536_000,
}


def uptime(status: str) -> int | None:
    """Seconds a container has run at least, by the words of its status; None where not told."""
    if (match := _UP.match(status)) is None:
        return None
    if match[0].startswith("Up Less"):
        return 0
    seconds = int(match[1] or 1) * _SECONDS[match[2]]
    return seconds - 1800 if match[2] == "hour" and match[1] else seconds  # hours are rounded


def may_have_restarted(before: str, now: str, elapsed: float) -> bool:
    """Whether the status leaves room for a restart since a look so many seconds ago.

    The list does not say StartedAt; a status tells how long the container runs at least.
    """
    old, new = uptime(before), uptime(now)
    if new is None:
        return before != now
    return old is None or new < old or new < elapsed + 1


def health(status: str) -> str:
    """The word in brackets at its end, of a container with a health check; else empty."""
    return status.rpartition("(")[2].removesuffix(")") if status.endswith(")") else ""
