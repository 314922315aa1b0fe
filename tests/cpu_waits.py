"""Time in which processes waited for a CPU: on a busy machine, no delay of the daemon's."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class CpuWaits:
    """The seconds for which the threads of processes have waited for a CPU since the creation.

    Of this process, the thread that waited longest; of another one, its main thread: the daemon's
    event loop.
    """

    def __init__(self, *processes: int) -> None:
        self._processes = processes
        self._before = [_run_delays(process) for process in processes]

    def longest(self) -> float:
        """Returns the sum over the processes."""
        return sum(
            max(
                (delay - before.get(thread, 0.0) for thread, delay in _run_delays(process).items()),
                default=0.0,
            )
            for process, before in zip(self._processes, self._before, strict=True)
        )


def _run_delays(process: int) -> dict[str, float]:
    """Returns the seconds in a run queue by thread; empty without CONFIG_SCHED_INFO."""
    threads = "*" if process == os.getpid() else str(process)
    delays = {}
    for schedstat in Path(f"/proc/{process}/task").glob(f"{threads}/schedstat"):
        with contextlib.suppress(OSError):  # the thread has ended
            delays[schedstat.parent.name] = int(schedstat.read_text().split()[1]) / 1e9
    return delays
