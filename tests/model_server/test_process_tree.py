"""Ancestors, launchers and CPU time of processes in a fake /proc, also of damaged files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.model_server.process_tree import ProcessTrees, launcher
from exporter.sources.triton.listeners import Endpoint
from tests.model_server.gpu_hosts import ServerHost

SECOND = os.sysconf("SC_CLK_TCK")
"""Ticks of a second."""


@pytest.fixture
def host(tmp_path: Path) -> ServerHost:
    return ServerHost(tmp_path / "proc")


def test_lineages_end_at_init_and_at_loops(host: ServerHost) -> None:
    host.process(10, 1, 10)
    host.process(11, 10, 10)
    host.process(20, 21)
    host.process(21, 20)
    for pid in range(100, 140):
        host.process(pid, pid - 1, 7)
    tree = ProcessTrees(str(host.procfs)).read((), (11, 20, 139, 999))
    assert tree.lineages[11] == ((11, 10), (10, 10))
    assert launcher(tree.lineages[11]) == 10
    assert len(tree.lineages[20]) == len(tree.lineages[139]) == 16, "a bound"
    assert tree.lineages[999] == (), "ended"


@pytest.mark.parametrize(
    "text", ["", "11 (a", "11 (a) S", "11 (a) S x 10", "11 (a) S " + "9" * 5000]
)
def test_a_damaged_file_is_a_process_without_ancestors(host: ServerHost, text: str) -> None:
    host.process(10)
    host.process(11, 10, 10)
    (host.procfs / "11" / "stat").write_text(text)
    trees = ProcessTrees(str(host.procfs))
    assert trees.read((), (10, 11)).lineages == {10: ((10, 10),), 11: ()}
    assert trees.cpu_seconds({"a": (11,)}) == {"a": 0}


def test_the_same_tree_until_something_changes(host: ServerHost) -> None:
    host.listen(8000, 71)
    host.process(11, sockets=(71,))
    here = Endpoint(frozenset({"127.0.0.1"}), 8000)
    trees = ProcessTrees(str(host.procfs))
    tree = trees.read((here,), ())
    assert tree.listeners[here].pids == {11}
    assert trees.read((here,), ()) is tree
    # Another process with its PID.
    (host.procfs / "11").rename(host.procfs / "gone")
    host.process(11, 5, sockets=(71,))
    host.process(5)
    assert trees.read((here,), ()).lineages == {11: ((11, 11), (5, 5))}


def test_cpu_time_of_all_descendants(host: ServerHost) -> None:
    host.process(10, ticks=SECOND)
    host.process(11, 10, ticks=2 * SECOND)
    host.process(12, 11, ticks=4 * SECOND)
    host.process(13, ticks=8 * SECOND)
    trees = ProcessTrees(str(host.procfs))
    assert trees.cpu_seconds({"a": (10,), "b": (11, 13), "c": (99,)}) == {"a": 7, "b": 14, "c": 0}
