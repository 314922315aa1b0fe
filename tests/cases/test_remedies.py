"""The remedies and the conditions that lead to each; docs/troubleshooting.md lists them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.context import Context
from exporter.errors import NotFound, SourceError
from exporter.settings import Paths
from exporter.sources.containers.cgroup.paths import CgroupPaths
from exporter.sources.containers.cgroup.reader import CgroupReader
from exporter.sources.containers.cgroup.remedies import without_cgroups, without_memory
from exporter.sources.gpu.settings import Settings as GpuSettings
from exporter.sources.gpu.source import build as build_gpus
from exporter.sources.gpu.tegra import TEGRA_REMEDY, is_tegra
from exporter.sources.host.filesystems import FilesystemsTarget
from exporter.sources.host.kernel import Kernel
from exporter.sources.host.settings import Settings
from tests.fakes.cgroup_trees import ID, V2_CPU, Tree, description
from tests.fakes.nvml.standin import Driver
from tests.fakes.procfs import make_tree
from tests.sources.gpu.polling import opened, poll, samples

PATH = f"docker/{ID}"
_CGROUPS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\n"


# -- the memory controller: condition, message, remedy --


def v1(tree: Tree) -> None:
    tree.v1(PATH, memory=False)
    tree.process("".join(f"1:{name}:/{PATH}\n" for name in ("cpuacct", "cpu")))


def v2(tree: Tree) -> None:
    tree.v2(PATH, memory=False)
    tree.write("", {"cgroup.controllers": "cpu io pids\n"})
    tree.process(f"0::/{PATH}\n")


def proc(tree: Tree, **files: str) -> None:
    for name, text in files.items():
        (tree.folder / "proc" / name).write_text(text)


def memory_controller_elsewhere(tree: Tree) -> None:
    v1(tree)
    tree.write("unified", {"cgroup.controllers": "memory\n"})
    proc(tree, cgroups=_CGROUPS + "memory\t0\t9\t1\n")


def on_v1(tree: Tree) -> None:
    v2(tree)
    proc(tree, cgroups=_CGROUPS + "memory\t5\t9\t1\n")


def disabled(tree: Tree) -> None:
    v2(tree)
    proc(tree, cgroups=_CGROUPS + "memory\t0\t1\t0\n")


def disabled_by_parameter(tree: Tree) -> None:
    v2(tree)
    proc(tree, cmdline="quiet cgroup_disable=pids,memory\n")


def not_delegated(tree: Tree) -> None:
    v2(tree)
    tree.write("", {"cgroup.controllers": "cpu io memory pids\n"})


def not_mounted(tree: Tree) -> None:
    v1(tree)
    proc(tree, cgroups=_CGROUPS + "memory\t0\t1\t1\n")


def no_cgroup_of_it(tree: Tree) -> None:
    v1(tree)
    tree.write("memory/other", {"memory.usage_in_bytes": "1\n"})


def no_such_controller(tree: Tree) -> None:
    v1(tree)
    proc(tree, cgroups=_CGROUPS)


MEMORY: list[tuple[Callable[[Tree], None], str, str]] = [
    (memory_controller_elsewhere, "on the cgroup v2 hierarchy", "unified_cgroup_hierarchy=1"),
    (on_v1, "on a cgroup v1 hierarchy", "unified_cgroup_hierarchy=1"),
    (disabled, "is disabled", "cgroup_enable=memory"),
    (disabled_by_parameter, "kernel parameter cgroup_disable", "remove `memory`"),
    (not_delegated, "not enabled in the containers' cgroups", "Delegate="),
    (not_mounted, "not mounted below", "mount it"),
    (no_cgroup_of_it, "have no cgroup of the memory controller", ""),
    (no_such_controller, "has no memory values", ""),
]


@pytest.mark.parametrize(
    ("found", "message", "remedy"), MEMORY, ids=lambda value: getattr(value, "__name__", "")
)
def test_without_memory_values(
    tmp_path: Path, found: Callable[[Tree], None], message: str, remedy: str
) -> None:
    (tmp_path / "proc").mkdir()
    tree = Tree(tmp_path)
    found(tree)
    reader = CgroupReader(tree.paths, 100)
    finding = reader.read([description()], engine_responds=True).without_memory
    assert finding is not None
    assert message in finding.message
    assert remedy in finding.remedy
    assert bool(remedy) is bool(finding.remedy)
    if "cgroup_enable" not in remedy:
        assert "cgroup_enable=memory" not in finding.remedy.replace("or add cgroup_enable", "")
    assert reader.read([description()], engine_responds=True).without_memory is None, "said once"
    reader.close()


def test_memory_controller_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    tree = Tree(tmp_path)
    memory_controller_elsewhere(tree)
    paths = CgroupPaths(1, {"cpuacct": tree.root / "cpuacct" / PATH})
    finding = without_memory(tree.root, tree.folder / "proc", paths)
    assert "cgroup v2 hierarchy" in finding.message
    assert "cgroup_enable" not in finding.remedy


def test_invalid_memory_values_are_not_a_missing_controller(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    tree = Tree(tmp_path)
    tree.v2_full(PATH)
    tree.write(PATH, {"memory.current": "much\n"})
    reader = CgroupReader(tree.paths, 100)
    sample = reader.read([description()], engine_responds=True)
    assert sample.usages[ID].memory is None
    assert sample.without_memory is None
    reader.close()


@pytest.mark.parametrize("cgroups", ["", "garbage\n\xff\nmemory\n", "memory x y z\n"])
def test_garbage_beside_it_raises_nothing(tmp_path: Path, cgroups: str) -> None:
    (tmp_path / "proc").mkdir()
    tree = Tree(tmp_path)
    v1(tree)
    proc(tree, cgroups=cgroups, cmdline=cgroups)
    paths = CgroupPaths(1, {"cpuacct": tree.root / "cpuacct" / PATH})
    assert without_memory(tree.root, tree.folder / "proc", paths).message


# -- no container's cgroup --


def test_without_cgroups(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    nothing = without_cgroups(tree.root, over_tcp=False)
    assert "mount the host's /sys and /proc" in nothing.remedy
    tree.write("", {"cgroup.controllers": "cpu\n", "cpu.stat": V2_CPU})
    of_own = without_cgroups(tree.root, over_tcp=False)
    assert "--cgroupns=host" in of_own.remedy
    elsewhere = without_cgroups(tree.root, over_tcp=True)
    assert elsewhere.remedy.startswith("for cheaper and more precise values run the exporter on")
    of_pods = without_cgroups(tree.root, over_tcp=False, has_stats=False)
    assert of_pods.remedy.endswith(
        "in a pod, mount the host's /sys/fs/cgroup, or /sys with --path.sysfs"
    )


# -- the host's files --


def host(root: Path) -> list[SourceError]:
    return list(Kernel(str(root), Settings()).read().problems)


def test_a_sandbox_without_a_file_needs_no_other_path(tmp_path: Path) -> None:
    """As gVisor, whose /proc has no diskstats."""
    (problem,) = host(make_tree(tmp_path, diskstats=None))
    assert isinstance(problem, NotFound)
    assert "does not exist" in problem.message
    assert problem.remedy == ""


def test_what_is_no_procfs_is_another_path(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        host(tmp_path / "empty")
    assert "--path.procfs" in caught.value.remedy


def test_hidden_processes_need_a_permission(tmp_path: Path) -> None:
    """As with hidepid=2, or ProtectProc=invisible: /proc/1 does not exist for other users."""
    root = make_tree(tmp_path, dev=None, mountinfo=None)
    (root / "1" / "net").rmdir()
    (root / "1").rmdir()
    (problem,) = host(root)
    assert "hidepid" in problem.remedy
    assert "--path.procfs" not in problem.remedy
    target = FilesystemsTarget(Settings(), Paths(procfs=str(root)))
    with pytest.raises(NotFound) as caught:
        asyncio.run(target.read())
    target.close()
    assert "hidepid" in caught.value.remedy


# -- GPUs --


def test_a_jetson_has_no_driver_to_install(tmp_path: Path) -> None:
    assert not is_tegra(Paths(procfs=str(tmp_path), sysfs=str(tmp_path)))
    tree = tmp_path / "device-tree"
    tree.mkdir()
    (tree / "compatible").write_bytes(b"nvidia,p3767-0000\0nvidia,tegra234\0")
    paths = Paths(procfs=str(tmp_path), sysfs="/nowhere")
    assert is_tegra(paths)
    family = tmp_path / "sys" / "devices" / "soc0"
    family.mkdir(parents=True)
    (family / "family").write_text("Tegra\n")
    assert is_tegra(Paths(procfs="/nowhere", sysfs=str(tmp_path / "sys")))

    async def remedy() -> str:
        source = build_gpus(GpuSettings(), Context(paths, lambda: (), lambda: 0))
        try:
            await source.discover()
        except NotFound as error:
            return error.remedy
        finally:
            await source.close()
        return "found"

    driver = Driver(tmp_path / "sys", gpus=1)
    driver.system.fail("nvmlInitWithFlags", 9)  # the driver is not loaded
    driver.load()
    assert asyncio.run(remedy()) == TEGRA_REMEDY


@pytest.mark.parametrize("jetson", [False, True])
def test_a_gpu_with_nothing_but_its_name_is_not_up(tmp_path: Path, jetson: bool) -> None:
    driver = Driver(tmp_path, gpus=1)
    gpu = driver.gpu(0)
    with driver.batch():
        for scope, function, _ in list(driver.lines):
            if scope == "0" and function not in ("nvmlDeviceGetName", "nvmlDeviceGetUUID"):
                gpu.unset(function)
    driver.load()
    if jetson:
        (tmp_path / "device-tree").mkdir()
        (tmp_path / "device-tree" / "compatible").write_text("nvidia,tegra234")

    async def main() -> None:
        async with opened(driver, procfs=str(tmp_path), sysfs="/nowhere") as source:
            (outcome,) = (await poll(source)).values()
        # The latter two are of the whole system.
        assert {name for name, _ in samples(outcome)} <= {
            *("gpu_info", "gpu_process_visibility", "gpu_confidential_compute_mode"),
        }
        incomplete = getattr(outcome, "incomplete", None)
        assert incomplete is not None
        assert incomplete.message == "the driver returns no measurement of this GPU"
        assert incomplete.remedy == (TEGRA_REMEDY if jetson else "")

    asyncio.run(main())
