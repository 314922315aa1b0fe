"""Pages without an end, for tests of their limits; and the memory that they need.

`python -m tests.upstream.endless_pages` reads lines of such pages and prints the memory of each.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection
from itertools import count, islice
from pathlib import Path

from exporter.errors import BadData
from exporter.upstream.text_parser import PageLimits, TextParser
from tests.paths import ROOT

PIECE = 65536


def parser(**limits: int) -> TextParser:
    return TextParser("up", lambda _: True, PageLimits(**{"samples": 20_000, **limits}))


def endless(line: bytes) -> tuple[int, str]:
    """Feeds numbered lines until the page is refused; returns the bytes fed, and the reason."""
    page = parser().begin()
    fed = 0
    numbers = count()
    lines = max(1, PIECE // len(line))
    template = line * lines
    numbered = template.count(b"%d")
    try:
        while fed < 20_000_000:
            piece = template % tuple(islice(numbers, numbered))
            fed += len(piece)
            page.feed(piece)
    except BadData as error:
        return fed, str(error)
    return fed, ""


def needed_memory(lines: Collection[bytes]) -> dict[bytes, int]:
    """Returns for each line the bytes by which the peak RSS of a process grows with its page.

    The processes are forks of a new interpreter: one that has run for a while has free memory.
    (`tracemalloc` takes six times the CPU time.)
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.upstream.endless_pages"],
        input=b"".join(lines),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return dict(zip(lines, map(int, done.stdout.split()), strict=True))


def _memory(field: str) -> int:
    """Returns VmRSS or VmHWM, its peak, in bytes."""
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def main() -> None:
    for line in sys.stdin.buffer.readlines():
        pid = os.fork()
        if not pid:
            before = _memory("VmRSS")
            endless(line)
            os.write(sys.stdout.fileno(), b"%d\n" % (_memory("VmHWM") - before))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(f"a process has ended with status {status}")


if __name__ == "__main__":
    main()
