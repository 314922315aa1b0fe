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


def test_the_number_of_reserved_ports_is_bounded() -> None:
    first, *_ = ports.free_ports(1)
    for _ in range(ports._RESERVED):
        ports.free_port()
    assert len(ports._marks) == ports._RESERVED
    ports._reserve(first)
