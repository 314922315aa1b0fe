"""Modules that the source loads: none but its own, beside those of the merge."""

from __future__ import annotations

from tests import clean_interpreter
from tests.clean_interpreter import REGISTRY

PROGRAM = """
import sys
import exporter.upstream.source
before = set(sys.modules)
import exporter.model_server.source
print(*(name for name in sys.modules.keys() - before if not name.startswith("exporter.")))
"""


def test_the_source_imports_no_more_than_the_merge() -> None:
    done = clean_interpreter.run(PROGRAM, after=REGISTRY)
    done.check_returncode()
    assert not done.stdout.split()
