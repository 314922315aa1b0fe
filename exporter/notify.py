"""systemd's sd_notify protocol (sd_notify(3)): readiness, status, and the watchdog.

A task of the event loop sends WATCHDOG=1, and only while every poller keeps its schedule. A hung
GPU or Docker delays no poller, because every read has a timeout: systemd restarts the daemon if
the daemon hangs, not if a target hangs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger("exporter.notify")

# Seconds between two ticks, unless the watchdog requires a shorter interval.
TICK_INTERVAL = 10.0
# Seconds by which a poller may be late before it counts as stuck: a busy machine is not a hung
# daemon.
MAX_POLLER_DELAY = 10.0
# Seconds by which a tick may be late before the whole machine counts as suspended.
MAX_TICK_DELAY = 1.0


class Notifier:
    """Sends to $NOTIFY_SOCKET; does nothing if that is not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if path.startswith(("/", "@")):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)
        self.watchdog = _watchdog(environment) if self._socket else None
        """The watchdog's timeout in seconds (WATCHDOG_USEC); None without a watchdog."""

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return self._socket is not None

    def send(self, *assignments: str) -> None:
        """Sends assignments such as READY=1. Never blocks: drops a datagram that cannot be sent."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.debug("cannot notify the service manager: %s", error)

    def close(self) -> None:
        """Closes the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _watchdog(environment: Mapping[str, str]) -> float | None:
    pid = environment.get("WATCHDOG_PID", "")
    microseconds = environment.get("WATCHDOG_USEC", "")
    if pid not in ("", str(os.getpid())) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None


async def notify_until_cancelled(
    notifier: Notifier,
    late_pollers: Callable[[float], Sequence[str]],
    status: Callable[[], str],
) -> None:
    """Sends WATCHDOG=1 at every tick, and STATUS= when it changes.

    late_pollers: returns the names of the pollers that were overdue before a time
    (monotonic seconds). status: returns the daemon's status as one line.
    """
    tick = min(TICK_INTERVAL, notifier.watchdog / 4) if notifier.watchdog else TICK_INTERVAL
    sent_status = ""
    logged = False
    last_tick = time.monotonic() - tick
    while True:
        now = time.monotonic()
        # If this tick is late the machine was suspended (swapping, a paused VM), and the pollers
        # have not run since: they are checked at the next tick.
        suspended = now - last_tick - tick > MAX_TICK_DELAY
        last_tick = now
        late = [] if suspended else late_pollers(now - MAX_POLLER_DELAY)
        if late and not logged:
            log.error(
                "pollers are stuck, so no watchdog keep-alive is sent: %s", ", ".join(late[:8])
            )
        elif not late and notifier.watchdog:
            notifier.send("WATCHDOG=1")
        logged = bool(late)
        if notifier.active and (line := status()) != sent_status:
            notifier.send(f"STATUS={line}")
            sent_status = line
        await asyncio.sleep(tick)
