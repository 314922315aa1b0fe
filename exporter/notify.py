"""What the service manager is told: systemd's sd_notify protocol, and its watchdog.

The watchdog is fed by the event loop's own tick, and only while every poller keeps its schedule.
A poller keeps it whatever its GPU or its Docker does, because every read has a deadline: a daemon
that is stuck is restarted, one that watches something stuck is not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("exporter.notify")

# Seconds from one tick to the next where no watchdog asks for shorter ones.
TICK = 10.0
# Seconds that a poller may be late before it counts as stuck: a busy machine is not a stuck daemon.
LATENESS = 10.0
# Seconds by which the watch itself may come late before it takes that for a standstill of all.
FREEZE = 1.0


class Notifier:
    """Sends to the socket that the service manager named; without one, says nothing to nobody."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if path.startswith(("/", "@")):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)
        self.watchdog = _watchdog(environment) if self._socket else None
        """Seconds in which the service manager wants to hear of us; None: no watchdog."""

    def tell(self, *assignments: str) -> None:
        """Send assignments such as READY=1. What cannot be sent now is dropped; never waits."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.debug("the service manager cannot be told: %s", error)

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog(environment: Mapping[str, str]) -> float | None:
    pid = environment.get("WATCHDOG_PID", "")
    microseconds = environment.get("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None


async def watch(
    notifier: Notifier,
    stuck: Callable[[float], Sequence[str]],
    status: Callable[[], str],
) -> None:
    """Feed the watchdog and tell the status, for ever.

    stuck: what should have turned before a time (monotonic seconds) and has not.
    status: one line on how the daemon fares.
    """
    tick = min(TICK, notifier.watchdog / 4) if notifier.watchdog else TICK
    told = ""
    complained = False
    before = time.monotonic() - tick
    while True:
        now = time.monotonic()
        # Where we ourselves come late the machine stood still (swap, a paused VM), and the pollers
        # have not had their turn yet: they are judged at the next tick.
        frozen = now - before - tick > FREEZE
        before = now
        late = [] if frozen else stuck(now - LATENESS)
        if late and not complained:
            log.error("stuck, so the watchdog is not fed: %s", ", ".join(late[:8]))
        elif not late and notifier.watchdog:
            notifier.tell("WATCHDOG=1")
        complained = bool(late)
        if (line := status()) != told:
            notifier.tell(f"STATUS={line}")
            told = line
        await asyncio.sleep(tick)
