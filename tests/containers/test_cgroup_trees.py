"""Finding and reading cgroups on trees of files: v1 and v2, by driver and oddity."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import BadData
from exporter.sources.containers import usage
from exporter.sources.containers.cgroup import CgroupReader, Sample, unfound
from exporter.sources.containers.cgroup_places import cgroup_version
from exporter.sources.containers.usage import Usage
from tests.containers.cgroup_trees import ID, OTHER, PID, V1_UNLIMITED, V2_CPU, Tree, identity

SCOPE = f"system.slice/docker-{ID}.scope"
EXPECTED = Usage(cpu=1.234567, memory=10_000, working_set=7_000, memory_limit=None)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "proc").mkdir()
    return Tree(tmp_path)


def sample(tree: Tree, most_open: int = 100) -> Sample:
    reader = CgroupReader(tree.paths, most_open)
    try:
        return reader.read([identity()], vouched=True)
    finally:
        reader.close()


def v2(path: str, seen: str | None = None) -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        tree.v2(path)
        tree.process(f"0::/{path if seen is None else seen}\n")

    return make


def v1(path: str, cpu: str = "cpuacct", listed: str = "cpuacct") -> Callable[[Tree], None]:
    def make(tree: Tree) -> None:
        tree.v1(path, cpu=cpu)
        tree.process(f"9:name=systemd:/{path}\n4:memory:/{path}\n2:{listed}:/{path}\n0::/{path}\n")

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(v2(f"docker/{ID}"), id="v2 cgroupfs"),
        pytest.param(v2(SCOPE), id="v2 systemd"),
        pytest.param(v2(f"a.slice/a-b.slice/docker-{ID}.scope"), id="v2 systemd nested slice"),
        pytest.param(v2(SCOPE, f"{SCOPE}/init"), id="v2 process deeper than the container"),
        pytest.param(
            v2(f"machine.slice/libpod-{ID}.scope", f"machine.slice/libpod-{ID}.scope/container"),
            id="v2 podman",
        ),
        pytest.param(
            v2(f"system.slice/docker-{OTHER}.scope/docker/{ID}"), id="v2 docker in docker"
        ),
        pytest.param(v1(f"docker/{ID}"), id="v1 cgroupfs"),
        pytest.param(v1(SCOPE), id="v1 systemd"),
        pytest.param(v1(SCOPE, "cpu,cpuacct", "cpu,cpuacct"), id="v1 joined controllers"),
        pytest.param(v1(SCOPE, "cpuacct", "cpu,cpuacct"), id="v1 joined, mounted by one name"),
        pytest.param(v2(SCOPE, "../../docker/elsewhere"), id="v2 private namespace"),
        pytest.param(v2(SCOPE, ""), id="v2 own root"),
        pytest.param(v2(SCOPE, f"docker/{OTHER}"), id="v2 the PID is another's by now"),
    ],
)
def test_found_and_read(tree: Tree, make: Callable[[Tree], None]) -> None:
    make(tree)
    found = sample(tree)
    assert found.problems == ()
    assert found.missing == frozenset()
    assert found.usages == {ID: EXPECTED}


def test_without_proc_the_tree_is_searched_once(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.write(f"machine.slice/libpod-conmon-{OTHER}.scope", {"cpu.stat": V2_CPU})
    reader = CgroupReader(tree.paths, 100)
    both = [identity(), identity(OTHER, PID + 1, "other")]
    found = reader.read(both, vouched=True)
    assert found.usages == {ID: EXPECTED}
    assert found.missing == {OTHER}  # Podman's monitor is not the container
    tree.write(f"docker/{OTHER}", {"cpu.stat": V2_CPU})
    assert reader.read(both, vouched=True).missing == {OTHER}  # no second walk for it
    started_again = [identity(), identity(OTHER, PID + 2, "other")]
    assert set(reader.read(started_again, vouched=True).usages) == {ID, OTHER}
    assert [problem.kind for problem in unfound(both, found.missing)] == ["not_found"]
    reader.close()


def test_a_version_is_told_by_the_file_system_not_by_a_line(tree: Tree) -> None:
    assert cgroup_version(tree.root) is None
    tree.v1("docker")
    assert cgroup_version(tree.root) == 1  # though `unified` is there, and `0::` lines
    tree.write("", {"cgroup.controllers": "\n"})
    assert cgroup_version(tree.root) == 2


@pytest.mark.parametrize(
    ("limit", "expected"),
    [*((text, None) for text in V1_UNLIMITED), ("9223372036854775807\n", None), ("4096\n", 4096)],
)
def test_limit_of_v1(tree: Tree, limit: str, expected: int | None) -> None:
    tree.v1(f"docker/{ID}", limit=limit)
    assert sample(tree).usages[ID].memory_limit == expected


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("67108864\n", 67_108_864)])
def test_limit_of_v2(tree: Tree, limit: str, expected: int | None) -> None:
    tree.v2(SCOPE, limit=limit)
    assert sample(tree).usages[ID].memory_limit == expected


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_memory_controller_there_is_no_memory(tree: Tree, version: int) -> None:
    if version == 1:
        tree.v1(SCOPE, memory=False)
    else:
        tree.v2(SCOPE, memory=False)
    found = sample(tree)
    assert found.usages == {ID: Usage(1.234567, None, None, None)}
    assert found.problems == ()


def test_the_working_set_is_never_below_zero(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.write(SCOPE, {"memory.current": "2999\n"})
    assert sample(tree).usages[ID].working_set == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu.stat", "usage_usec -5\n"),
        ("cpu.stat", "usage_usec 99999999999999999999999\n"),
        ("memory.current", ""),
        ("memory.current", "1.5e9\n"),
        ("memory.stat", "inactive_file\xff\ninactive_file x\n"),
        ("memory.max", "many\n"),
    ],
)
def test_nonsense_in_one_containers_files_is_its_own_problem(
    tree: Tree, name: str, text: str
) -> None:
    tree.v2(SCOPE)
    tree.v2(f"docker/{OTHER}")
    tree.write(SCOPE, {name: text})
    reader = CgroupReader(tree.paths, 100)
    found = reader.read([identity(), identity(OTHER, 1, "other")], vouched=True)
    assert [type(problem) for problem in found.problems] == [BadData]
    assert found.usages == {OTHER: EXPECTED}
    reader.close()


def test_a_key_that_is_not_there_is_absent() -> None:
    assert usage.keyed(b"inactive_file_x 5\nactive_inactive_file 6\n", b"inactive_file") is None
    assert usage.keyed(b"inactive_file 7", b"inactive_file") == 7


def test_open_files_are_bounded(tree: Tree) -> None:
    tree.v2(SCOPE)
    tree.v2(f"docker/{OTHER}")
    reader = CgroupReader(tree.paths, 7)
    before = len(list(Path("/proc/self/fd").iterdir()))
    both = [identity(), identity(OTHER, 1, "other")]
    for _ in range(3):
        assert reader.read(both, vouched=True).usages == {ID: EXPECTED, OTHER: EXPECTED}
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 4
    assert set(reader.read(both[1:], vouched=True).usages) == {OTHER}
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 4  # the place is taken over
    reader.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_that_may_not_be_read_are_a_problem(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.v2(SCOPE)

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", refuse)
    found = sample(tree)
    assert [problem.kind for problem in found.problems] == ["unreachable"]
    assert "ulimit" in found.problems[0].remedy
    assert found.usages == {}
