"""Cgroups that a container or a user creates, with the names of others: whose usage is whose."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from exporter.cgroup_owner import own_cgroups, proc_cgroup
from exporter.sources.containers.cgroup import paths
from exporter.sources.containers.cgroup.paths import cgroup_version, is_in_container, search_cgroups
from exporter.sources.containers.cgroup.reader import CgroupReader, CgroupSample
from tests.fakes.cgroup_trees import ID, OTHER, PID, Tree, description
from tests.real_cgroups import ROOT, cgroup_folder, create_cgroups

USER = "user.slice/user-1000.slice/user@1000.service"
KNOWN = frozenset((ID, OTHER))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "proc").mkdir()
    return Tree(tmp_path)


def read(tree: Tree, *ids: str, others: frozenset[str] = frozenset()) -> CgroupSample:
    reader = CgroupReader(tree.paths, 100)
    containers = [description(key, PID + number, key[:4]) for number, key in enumerate(ids)]
    sample = reader.read(containers, engine_responds=True, others=others)
    reader.close()
    return sample


def found(tree: Tree, id: str, known: frozenset[str] = KNOWN) -> str | None:
    """Searches the tree (cgroup v2) for one container; returns its folder below the root."""
    cgroups = search_cgroups(tree.root, 2, (id,), known)
    return str(cgroups[id].folders[""].relative_to(tree.root)) if cgroups else None


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("by_pid", [True, False], ids=["by PID", "by search"])
def test_the_outermost_container_owns_a_nested_one(tree: Tree, version: int, by_pid: bool) -> None:
    outer, nested = f"docker/{ID}", f"docker/{ID}/docker/{OTHER}"
    for path, pid in ((outer, PID), (nested, PID + 1)):
        tree.v1(path) if version == 1 else tree.v2(path)
        if by_pid:
            tree.process(f"5:cpuacct:/{path}\n6:memory:/{path}\n0::/{path}\n", pid)
    sample = read(tree, ID, OTHER)
    assert sample.usages.keys() == {ID}
    assert sample.missing == {OTHER}


def test_a_container_that_is_not_exported_owns_its_cgroups_too(tree: Tree) -> None:
    tree.v2(f"docker/{OTHER}/docker-{ID}.scope")
    assert read(tree, ID, others=frozenset((OTHER,))).missing == {ID}
    assert read(tree, ID).usages.keys() == {ID}  # nested in no container of this engine


def test_a_folder_named_after_another_container_is_not_its_cgroup(tree: Tree) -> None:
    """Neither nearer to the root, nor beside it: the one that root owns is the container's."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")
    real = f"kubepods.slice/kubepods-burstable.slice/pod.slice/cri-containerd-{ID}.scope"
    for fake in (f"{USER}/{ID}", f"{USER}/x/docker-{ID}.scope"):
        tree.v2(fake)
        os.chown(tree.root / fake, 1000, 1000)
    assert found(tree, ID) is None  # of two users' folders, none is credible
    tree.v2(real)
    assert found(tree, ID) == real


def test_a_rootless_container_is_found(tree: Tree) -> None:
    path = f"{USER}/user.slice/docker-{ID}.scope"
    tree.v2(path)
    if os.geteuid() == 0:
        os.chown(tree.root / path, 1000, 1000)
    assert found(tree, ID) == path


@pytest.mark.parametrize("place", ["docker/" + OTHER, USER, "system.slice/x.service"])
@pytest.mark.parametrize("shape", ["wide", "deep"])
def test_thousands_of_cgroups_hide_no_other_container(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, place: str, shape: str
) -> None:
    """60,000 in a container cost one second to create here: the bounds are smaller instead."""
    monkeypatch.setattr(paths, "MAX_FOLDERS", 50)
    monkeypatch.setattr(paths, "MAX_ENTRIES", 200)
    real = f"kubepods.slice/kubepods-burstable.slice/pod.slice/cri-containerd-{ID}.scope"
    tree.v2(real)
    for number in range(600):
        name = f"{number}" if shape == "wide" else f"{number // 25}/{number % 25}"
        (tree.root / place / name).mkdir(parents=True)
    assert found(tree, ID) == real


@pytest.mark.real
@pytest.mark.parametrize("place", ["docker/" + OTHER, "user.slice"], ids=["container", "user"])
def test_thousands_of_real_cgroups_hide_no_container(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The kernel's cgroups, more than a search reads of one level (60,000: tests/e2e/abuse)."""
    monkeypatch.setattr(paths, "MAX_FOLDERS", 500)
    version = cgroup_version(ROOT)
    assert version is not None
    with cgroup_folder() as folder:
        real = folder / f"kubepods/burstable/pod/x/cri-containerd-{ID}.scope"
        real.mkdir(parents=True)
        create_cgroups(folder / place, 3000)
        fake = folder / place / f"docker-{ID}.scope"
        fake.mkdir()
        os.chown(fake, 1000, 1000)
        started = time.monotonic()
        cgroups = search_cgroups(ROOT, version, (ID,), KNOWN)
        assert time.monotonic() - started < 10
        assert real in cgroups[ID].folders.values()
        assert all(path.is_relative_to(folder) for path in cgroups[ID].folders.values())


def test_the_folders_and_entries_of_a_search_are_bounded(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a user; the time of a search with the real bounds: tests/e2e/abuse."""
    monkeypatch.setattr(paths, "MAX_FOLDERS", 50)
    monkeypatch.setattr(paths, "MAX_ENTRIES", 200)
    tree.v2("docker")
    for number in range(600):
        (tree.root / "user.slice" / str(number) / "below").mkdir(parents=True)
    folders: list[str] = []
    entries: list[int] = []
    subfolders = paths._subfolders

    def counted(folder: str) -> list[str]:
        names = subfolders(folder)
        folders.append(folder.removeprefix(str(tree.root)))
        entries.append(len(names))
        return names

    monkeypatch.setattr(paths, "_subfolders", counted)
    assert found(tree, ID) is None
    assert folders[:3] == ["", "/docker", "/user.slice"]
    assert entries[2] == 200, "of 600"
    by_depth = Counter(folder.count("/") for folder in folders)
    assert by_depth == {0: 1, 1: 2, 2: 50, 3: 50}, "of a level, 50 are read"


def test_a_reused_pid_in_another_container_is_not_the_container() -> None:
    """A tenant waits for the PID of another container, in a cgroup with its name."""
    assert is_in_container(f"0::/docker/{ID}/inner\n", ID, KNOWN)
    assert not is_in_container(f"0::/docker/{OTHER}/{ID}\n", ID, KNOWN)
    assert not is_in_container(f"4:memory:/docker/{OTHER}\n0::/docker/{ID}\n", ID, KNOWN)
    assert not is_in_container("0::/\n", ID, KNOWN)
    assert not is_in_container("", ID, KNOWN)


def test_a_containers_own_cgroups_are_in_the_reading(tree: Tree) -> None:
    """For the attribution of processes to it: of each hierarchy, up to the container's cgroup."""
    systemd = f"/system.slice/docker-{ID}.scope"
    tree.v1(f"docker/{ID}")
    tree.process(f"5:cpuacct:/docker/{ID}/init\n1:name=systemd:{systemd}/x/{OTHER}\n0::/\n", PID)
    assert read(tree, ID).cgroups == {ID: {f"/docker/{ID}", systemd}}
    assert own_cgroups(f"0::/docker/{OTHER}/{ID}\n", ID, KNOWN) == frozenset()


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_name_cannot_forge_a_line(separator: str) -> None:
    name = f"x{separator}0::/docker/{ID}"
    assert proc_cgroup(f"0::/docker/{OTHER}/{name}\n")[""] == ("", f"/docker/{OTHER}/{name}")
    assert not is_in_container(f"0::/docker/{OTHER}/{name}\n", ID, KNOWN)
