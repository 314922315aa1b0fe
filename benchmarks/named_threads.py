"""Runs the exporter with the names of its Python threads as names of the kernel's threads.

    python -m benchmarks.named_threads [flags of the exporter]

/proc/PID/task/TID/comm has 15 bytes of the name; Python sets it itself from version 3.14 on.
"""

from __future__ import annotations

import threading
from pathlib import Path

from exporter.__main__ import start

_run = threading.Thread.run


def _run_named(thread: threading.Thread) -> None:
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(thread.name)
    _run(thread)


if __name__ == "__main__":
    threading.Thread.run = _run_named  # type: ignore[method-assign, assignment]  # this program is for that
    start()
