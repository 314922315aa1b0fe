"""A container is its cgroup and all below it: processes, threads, and block I/O of old kernels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.sources.containers.cgroup import child_cgroups
from exporter.sources.containers.cgroup.reader import CgroupReader
from exporter.sources.containers.engine.description import ContainerDescription
from exporter.sources.containers.reading import ContainerUsage, DeviceIo
from tests.fakes.cgroup_trees import ID, OTHER, Tree, description

PATH = f"docker/{ID}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "proc").mkdir()
    return Tree(tmp_path)


def pids(first: int, count: int) -> str:
    return "".join(f"{pid}\n" for pid in range(first, first + count))


class Polled:
    """A reader of one container."""

    def __init__(self, tree: Tree, *more: ContainerDescription, max_open: int = 100) -> None:
        self.reader = CgroupReader(tree.paths, max_open)
        self.containers = [description(), *more]
        self.problems: list[str] = []

    def usage(self, id: str = ID) -> ContainerUsage:
        result = self.reader.read(self.containers, engine_responds=True)
        self.problems = [problem.message for problem in result.problems]
        return result.usages[id]


def v2_systemd(tree: Tree) -> None:
    """A container with systemd inside, as it delegates cgroups: none has processes but leaves."""
    tree.v2_full(PATH)
    tree.write(PATH, {"cgroup.procs": ""})
    tree.write(f"{PATH}/init.scope", {"cgroup.procs": pids(10, 1)})
    tree.write(f"{PATH}/system.slice", {"cgroup.procs": ""})
    tree.write(f"{PATH}/system.slice/a.service", {"cgroup.procs": pids(20, 12)})
    tree.write(f"{PATH}/system.slice/b.service/x", {"cgroup.procs": pids(40, 4)})


@pytest.mark.parametrize("max_open", [100, 0], ids=["kept open", "opened at each poll"])
def test_processes_below_count_on_v2(tree: Tree, max_open: int) -> None:
    v2_systemd(tree)
    container = Polled(tree, max_open=max_open)
    for _ in range(2):
        used = container.usage()
        assert (used.processes, used.threads) == (17, 5)  # pids.current includes those below
        assert container.problems == []
    tree.write(f"{PATH}/init.scope", {"cgroup.procs": pids(10, 2)})
    assert container.usage().processes == 18
    container.reader.close()


def test_a_cgroup_that_is_created_later_is_found(tree: Tree) -> None:
    tree.v2_full(PATH)
    container = Polled(tree)
    assert container.usage().processes == 3
    tree.write(f"{PATH}/init", {"cgroup.procs": pids(11, 3)})
    tree.write(PATH, {"cgroup.procs": ""})
    assert container.usage().processes == 3
    tree.write(f"{PATH}/late", {"cgroup.procs": pids(50, 2)})
    assert container.usage().processes == 5
    for name in ("init", "late"):
        (tree.root / PATH / name / "cgroup.procs").unlink()
        (tree.root / PATH / name).rmdir()
    tree.write(PATH, {"cgroup.procs": pids(11, 1)})
    assert container.usage().processes == 1
    container.reader.close()


def test_a_process_listed_twice_counts_once(tree: Tree) -> None:
    """As the kernel may; those of another PID namespace are all 0."""
    tree.v2_full(PATH)
    tree.write(PATH, {"cgroup.procs": "11\n12\n11\n0\n0\n0\n"})
    assert Polled(tree).usage().processes == 5


def v1(tree: Tree, *controllers: str) -> None:
    tree.v1_full(PATH)
    names = controllers or ("memory", "cpuacct", "cpu", "blkio", "pids")
    tree.process("".join(f"1:{name}:/{PATH}\n" for name in names))


def test_processes_below_count_on_v1(tree: Tree) -> None:
    v1(tree)
    tree.write(f"pids/{PATH}/a/b", {"cgroup.procs": pids(100, 7)})
    used = Polled(tree).usage()
    assert (used.processes, used.threads) == (10, 5)


def test_another_controller_serves_without_pids(tree: Tree) -> None:
    v1(tree, "memory", "cpuacct")
    tree.write(f"cpuacct/{PATH}", {"cgroup.procs": pids(10, 2), "tasks": pids(10, 6)})
    tree.write(f"cpuacct/{PATH}/a", {"cgroup.procs": pids(100, 7), "tasks": pids(100, 20)})
    used = Polled(tree).usage()
    assert (used.processes, used.threads) == (9, 26)


BYTES, OPERATIONS = "blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"


def test_the_recursive_files_of_v1_include_those_below(tree: Tree) -> None:
    v1(tree)
    recursive = {f"{BYTES}_recursive": "8:0 Read 7\n8:0 Write 8\nTotal 15\n"}
    recursive[f"{OPERATIONS}_recursive"] = "8:0 Read 5\n8:0 Write 6\nTotal 11\n"
    tree.write(f"blkio/{PATH}", recursive)
    tree.write(f"blkio/{PATH}/a", {BYTES: "8:0 Read 1\n8:0 Write 1\nTotal 2\n"})
    assert Polled(tree).usage().io == (DeviceIo("8:0", 7, 8, 5, 6),)


def test_block_io_below_is_added_on_an_old_kernel_and_never_falls(tree: Tree) -> None:
    v1(tree)
    container = Polled(tree)
    own = (DeviceIo("8:0", 1000, 2000, 3, 4), DeviceIo("253:7", 10, 20, 1, 2))
    assert container.usage().io == own
    below = {BYTES: "8:0 Read 5\n8:0 Write 0\n9:0 Read 7\n9:0 Write 1\nTotal 13\n"}
    tree.write(f"blkio/{PATH}/a", below | {OPERATIONS: "8:0 Read 2\n8:0 Write 0\nTotal 2\n"})
    tree.write(f"pids/{PATH}", {"pids.current": "6\n"})  # a process has started there
    with_child = (DeviceIo("8:0", 1005, 2000, 5, 4), own[1], DeviceIo("9:0", 7, 1, None, None))
    assert container.usage().io == with_child
    tree.write(f"blkio/{PATH}/a", {BYTES: "Total 0\n", OPERATIONS: "Total 0\n"})  # created again
    assert container.usage().io == with_child
    container.reader.close()


def test_thousands_of_cgroups_are_read_in_several_polls(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_cgroups, "MAX_PER_POLL", 40)
    tree.v2_full(PATH)
    for number in range(100):
        tree.write(f"{PATH}/{number}", {"cgroup.procs": f"{number + 1000}\n"})
    tree.v2_full(f"docker/{OTHER}")
    tree.write(f"docker/{OTHER}/a", {"cgroup.procs": "7\n"})
    container = Polled(tree, description(OTHER, 1, "other"))
    opened: list[str] = []
    real = os.open

    def open_(path: str, *arguments: int) -> int:
        opened.append(str(path))
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", open_)
    seen = []
    for _ in range(8):
        opened.clear()
        seen.append(container.usage().processes)
        assert sum(path.endswith("cgroup.procs") for path in opened) <= 40 + 2 + 2
    assert seen[0] is None  # not yet known, never a part of it
    assert seen[-1] == 103
    assert set(seen) == {None, 103}
    assert container.usage(OTHER).processes == 4
    container.reader.close()


def test_too_many_cgroups_are_unknown(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_cgroups, "MAX_CGROUPS", 20)
    tree.v2_full(PATH)
    for number in range(21):
        tree.write(f"{PATH}/{number}", {"cgroup.procs": f"{number + 1000}\n"})
    container = Polled(tree)
    for _ in range(2):
        assert container.usage().processes is None
        assert container.usage().threads == 5
        assert ["more than 20 cgroups" in message for message in container.problems] == [True]
    container.reader.close()


def test_a_threaded_cgroup_has_no_processes_of_its_own(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are listed in the cgroup above it."""
    v2_systemd(tree)
    real = os.open

    def open_(path: str, *arguments: int) -> int:
        if str(path).endswith("b.service/x/cgroup.procs"):
            raise OSError(95, "Operation not supported")
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", open_)
    container = Polled(tree)
    assert container.usage().processes == 13
    assert container.problems == []
