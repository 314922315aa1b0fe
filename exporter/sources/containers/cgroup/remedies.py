"""The reasons why cgroup files or values are missing, and the remedies that fit. Blocking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.kernel_file import kernel_text
from exporter.sources.containers.cgroup.paths import CgroupPaths, cgroup_version, mount_point

_MEMORY = "memory"
_RUN_BESIDE = (
    "for cheaper and more precise values run the exporter on the engine's host; in a container"
    " there, mount the host's /sys and /proc and set --path.sysfs and --path.procfs"
)
_MOUNT_FILES = (
    "for cheaper and more precise values give the exporter the host's files: in a container, mount"
    " the host's /sys and /proc and set --path.sysfs and --path.procfs"
)
_MOUNT_CGROUPS = (
    "give the exporter the host's cgroups: in a pod, mount the host's /sys/fs/cgroup, or /sys with"
    " --path.sysfs"
)
_SHARE_NAMESPACE = (
    "for cheaper and more precise values let the exporter see the host's cgroups: in a container,"
    " mount the host's /sys and set --path.sysfs, or start it with --cgroupns=host"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A missing file or value, the reason, and the remedy; empty if none is known."""

    message: str
    remedy: str = ""


def without_cgroups(root: Path, *, over_tcp: bool, has_stats: bool = True) -> Finding:
    """Returns the finding if no container's cgroup is below the root.

    over_tcp: whether the engine is reached over TCP: it may be on another host. has_stats: whether
    it has stats calls.
    """
    message = f"no container's cgroup is below {root}"
    if not has_stats:
        return Finding(f"{message}: the containers have no resource usage", _MOUNT_CGROUPS)
    message += ": the values come from the engine's stats calls"
    if over_tcp:
        return Finding(message, _RUN_BESIDE)
    if cgroup_version(root) is None:
        return Finding(message, _MOUNT_FILES)
    return Finding(message, _SHARE_NAMESPACE)


def without_memory(root: Path, procfs: Path, paths: CgroupPaths) -> Finding:
    """Returns the finding if a container's cgroup has no memory files.

    paths: its folders.
    """
    if paths.version == 2:
        if _MEMORY in _controllers(root):
            return Finding(
                "the memory controller is not enabled in the containers' cgroups",
                "delegate it to their parent: for a rootless engine, Delegate=cpu cpuset io memory"
                " pids in a drop-in of user@.service",
            )
    else:
        for hierarchy in _v2_hierarchies(root):
            if _MEMORY in _controllers(hierarchy):
                return Finding(
                    f"the memory controller is on the cgroup v2 hierarchy {hierarchy}, and the"
                    " engine uses v1",
                    "put all controllers on one version: systemd.unified_cgroup_hierarchy=1 as a"
                    " kernel parameter, or without cgroup_no_v1=memory",
                )
        if mount_point(root, _MEMORY, _MEMORY) is not None:
            return Finding("the containers have no cgroup of the memory controller")
    return _of_kernel(root, procfs, paths.version)


def _of_kernel(root: Path, procfs: Path, version: int) -> Finding:
    """Returns the finding if the memory controller is not in the hierarchies below the root."""
    if _is_disabled(kernel_text(f"{procfs}/cmdline") or ""):
        return Finding(
            "the memory controller is disabled by the kernel parameter cgroup_disable",
            "remove `memory` from cgroup_disable, or add cgroup_enable=memory",
        )
    row = _proc_cgroups(kernel_text(f"{procfs}/cgroups") or "")
    if row is None:
        return Finding("the kernel has no memory values of containers")
    hierarchy, enabled = row
    if not enabled:
        return Finding(
            "the memory controller is disabled", "add the kernel parameter cgroup_enable=memory"
        )
    if version == 2 and hierarchy:
        return Finding(
            "the memory controller is on a cgroup v1 hierarchy, and the engine uses v2",
            "put all controllers on one version: systemd.unified_cgroup_hierarchy=1 as a kernel"
            " parameter",
        )
    return Finding(
        f"the memory controller is not mounted below {root}",
        "mount it there; in a container, mount the host's /sys and set --path.sysfs",
    )


def _controllers(hierarchy: Path) -> list[str]:
    """Returns the controllers of a v2 hierarchy."""
    return (kernel_text(f"{hierarchy}/cgroup.controllers") or "").split()


def _v2_hierarchies(root: Path) -> list[Path]:
    """Returns the v2 hierarchies beside those of v1: /sys/fs/cgroup/unified, usually."""
    return [file.parent for file in sorted(root.glob("*/cgroup.controllers"))]


def _is_disabled(command_line: str) -> bool:
    """Whether the kernel's parameters disable the controller."""
    values = [
        parameter.partition("=")[2].split(",")
        for parameter in command_line.split()
        if parameter.startswith("cgroup_disable=")
    ]
    return any(_MEMORY in value for value in values)


def _proc_cgroups(text: str) -> tuple[bool, bool] | None:
    """Parses the controller's line of /proc/cgroups: "memory 4 54 1".

    Returns whether it is on a v1 hierarchy, and whether it is enabled; None without the line.
    """
    for line in text.split("\n"):
        match line.split():
            case [name, hierarchy, _, enabled] if name == _MEMORY:
                return hierarchy != "0", enabled != "0"
    return None
