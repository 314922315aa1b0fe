"""The `Status` text of a container in the engine's list: "Up 5 minutes (healthy)"."""

from __future__ import annotations

import re

# The format of Docker's units.HumanDuration: "Up 5 seconds", "Up About an hour (healthy)".
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


def min_uptime(status: str) -> int | None:
    """Returns the minimum uptime in seconds by the status text; None if it has no uptime."""
    if (match := _UP.match(status)) is None:
        return None
    if match[0].startswith("Up Less"):
        return 0
    seconds = int(match[1] or 1) * _SECONDS[match[2]]
    return seconds - 1800 if match[2] == "hour" and match[1] else seconds  # hours are rounded


def may_have_restarted(before: str, now: str, elapsed: float) -> bool:
    """Returns whether a restart is possible between two status texts of the engine's list.

    elapsed: seconds from the last inspect of the container to the list with the text `now`.

    The list has no StartedAt; a status text gives a minimum uptime.
    """
    old, new = min_uptime(before), min_uptime(now)
    if new is None:
        return before != now
    return old is None or new < old or new < elapsed + 1


def health_text(status: str) -> str:
    """Returns the health at the end, in parentheses; empty without a health check."""
    return status.rpartition("(")[2].removesuffix(")") if status.endswith(")") else ""
