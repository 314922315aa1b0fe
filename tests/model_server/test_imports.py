"""Modules that the source loads: none but its own, beside those of the merge."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import exporter.upstream.source
before = set(sys.modules)
import exporter.model_server.source
print(*(name for name in sys.modules.keys() - before if not name.startswith("exporter.")))
"""


def test_the_source_imports_no_more_than_the_merge() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert not done.stdout.split()
