"""Two model servers in two cgroups of the host, and the energy that a daemon reports of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.daemon import Daemon, Samples, find
from tests.ports import free_ports
from tests.real_cgroups import cgroup_folder, cgroup_tree

PROGRAM = Path(__file__).with_name("working_server.py")
ENERGY, CARD = "model_server_energy_joules_total", "gpu_energy_joules_total"


@dataclass(frozen=True, slots=True)
class Working:
    """A server that works. busy: milliseconds of every 50 ms."""

    name: str
    port: int
    busy: int
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return f"--model-server.url={self.name}=http://127.0.0.1:{self.port}/metrics"


@contextlib.contextmanager
def two_servers(busy: tuple[int, int], *options: str) -> Iterator[tuple[Working, Working]]:
    """Yields the servers `a` and `b`, each in a cgroup with the name of a container's.

    On a GPU also where no cgroup can be created: the servers are found by their ports.
    """
    with contextlib.ExitStack() as stack:
        folder = None
        if "cuda" not in options or os.access(cgroup_tree(), os.W_OK):
            folder = stack.enter_context(cgroup_folder())
        servers = []
        for name, port, milliseconds in zip("ab", free_ports(2), busy, strict=True):
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(port), str(milliseconds), "50", *options],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            if folder is not None:
                cgroup = folder / (name * 64)
                cgroup.mkdir()
                (cgroup / "cgroup.procs").write_text(str(process.pid))
            servers.append(Working(name, port, milliseconds, process))
        for server in servers:
            assert server.process.stdin is not None
            assert server.process.stdout is not None
            server.process.stdin.write("\n")
            server.process.stdin.flush()
            assert server.process.stdout.readline() == "ready\n"
        yield servers[0], servers[1]


def millijoules(samples: Samples) -> dict[str, int]:
    """Returns the energy by owner: a server, `other` or empty. Fails on a part of a millijoule."""
    energy = {
        dict(labels)["server"] or dict(labels)["engine"]: value * 1000
        for (name, labels), value in samples.items()
        if name == ENERGY
    }
    assert all(abs(value - round(value)) < 1e-3 for value in energy.values()), energy
    return {owner: round(value) for owner, value in energy.items()}


def unowned(daemon: Daemon) -> tuple[int, dict[str, int]]:
    """Returns the card's counter less all owners' energy, in millijoules, and the owners'."""
    samples = daemon.samples()
    card = find(samples, CARD)
    assert card is not None
    owners = millijoules(samples)
    return round(card * 1000) - sum(owners.values()), owners
