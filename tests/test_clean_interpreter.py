"""Programs in forks of a process that has imported nothing."""

from __future__ import annotations

import pytest

from tests import clean_interpreter

ENDS = ("raise SystemExit(3)",)


def test_a_statement_that_ends_its_process_fails_its_programs_alone() -> None:
    for _ in range(3):
        with pytest.raises(AssertionError, match="fork server has ended"):
            clean_interpreter.run("print(1)", after=ENDS)
    assert clean_interpreter.run("print(2)").stdout == "2\n"
    assert clean_interpreter.run("print(name)", after=("name = 3", "import json")).returncode == 1
