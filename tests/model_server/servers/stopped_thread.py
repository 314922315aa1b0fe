"""Stops one thread of another process, as a call that hangs does: the others go on."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

from tests.parts import missing
from tests.waiting import until

# Requests of ptrace(2).
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000


def busiest_thread(pid: int) -> int:
    """Returns the thread of a process that works now: the first that uses 0.1 s of CPU time."""
    before = _ticks(pid)

    def working() -> int | None:
        used = {tid: ticks - before.get(tid, 0) for tid, ticks in _ticks(pid).items()}
        return next((tid for tid, ticks in used.items() if ticks >= 10), None)

    return until(working, "a thread at work", seconds=60) or 0


def _ticks(pid: int) -> dict[int, int]:
    """Returns the CPU time by thread."""
    ticks = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            ticks[int(task.name)] = int(fields[11]) + int(fields[12])
    return ticks


@contextlib.contextmanager
def stopped_thread(thread: int) -> Iterator[None]:
    """Stops a thread inside the block. Skips the test where tracing is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(_SEIZE, thread, None, None) != 0:
        missing(f"ptrace is not permitted: {os.strerror(ctypes.get_errno())}")
    try:
        assert libc.ptrace(_INTERRUPT, thread, None, None) == 0
        os.waitpid(thread, _WALL)
        yield
    finally:
        libc.ptrace(_DETACH, thread, None, None)
