"""The ports that tests draw."""

from __future__ import annotations

import pytest

from tests import clean_interpreter, ports

PROGRAM = """
import sys
from tests import ports
ports._PORTS = [int(sys.argv[1])]
ports.free_port()
"""


def test_no_process_draws_a_port_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port()
    monkeypatch.setattr(ports, "_PORTS", [port])
    with pytest.raises(AssertionError, match="in use"):
        ports.free_port()
    done = clean_interpreter.run(PROGRAM, str(port))
    assert "a hundred ports are in use" in done.stderr
    assert done.returncode == 1
