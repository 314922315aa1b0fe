"""Pages without an end, for tests of their limits; and the memory that one needs.

`python -m tests.upstream.endless_pages` reads a line of such a page and prints the memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import count
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
    try:
        while fed < 20_000_000:
            lines = max(1, PIECE // len(line))
            piece = b"".join(line.replace(b"%d", b"%d" % next(numbers)) for _ in range(lines))
            fed += len(piece)
            page.feed(piece)
    except BadData as error:
        return fed, str(error)
    return fed, ""


def needed_memory(line: bytes) -> int:
    """Returns the bytes by which the peak RSS of a new interpreter grows with an endless page.

    `tracemalloc` takes six times the CPU time; a process that has run for a while has free memory.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.upstream.endless_pages"],
        input=line,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


def _memory(field: str) -> int:
    """Returns VmRSS or VmHWM, its peak, in bytes."""
    match = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) << 10


def main() -> None:
    line = sys.stdin.buffer.read()
    before = _memory("VmRSS")
    endless(line)
    sys.stdout.write(str(_memory("VmHWM") - before))


if __name__ == "__main__":
    main()
