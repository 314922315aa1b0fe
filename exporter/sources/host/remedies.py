"""The remedies of a kernel file that is missing or fails, by what is found beside it. Blocking."""

from __future__ import annotations

from pathlib import Path

PROCFS_REMEDY = "set --path.procfs to the mount point of the host's /proc"
HIDDEN_REMEDY = (
    "processes of other users are hidden there (hidepid=, ProtectProc=): run the exporter as root,"
    " or mount it with hidepid=0"
)


def file_remedy(procfs: Path, path: Path) -> str:
    """Returns the remedy; empty if the kernel, or a sandbox such as gVisor, has no such file."""
    if not any((procfs / name).exists() for name in ("self", "stat", "meminfo")):
        return PROCFS_REMEDY
    first = procfs / "1"
    if path.is_relative_to(first) and not first.exists():
        return HIDDEN_REMEDY
    return ""
