"""Whose the counters of a network namespace are, so that each namespace counts once. Blocking.

The engine's description says it for containers on the host's network (`host`) and on another
container's (`container:ID`). Where the kernel lets us (root, CAP_SYS_PTRACE) the namespaces
themselves are compared too, which finds those shared in other ways, such as in Podman's pods.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import is_
from pathlib import Path

from exporter.sources.containers.engine.description import ContainerDescription


def shares_namespace(mode: str) -> bool:
    """Whether a network mode means somebody else's namespace, or the host's, by its description.

    The name of a network is a mode, too: `hosting_default` is a network of its own.
    """
    return mode == "host" or mode.startswith(("container:", "ns:"))


class NetworkNamespaces:
    """Keeps the namespace of each container's first process."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._last: tuple[ContainerDescription, ...] = ()
        self._owners: set[str] = set()
        self._inodes: dict[tuple[str, int], int | None] = {}

    def owners(self, containers: Sequence[ContainerDescription]) -> set[str]:
        """IDs of the containers that show their namespace's counters."""
        if len(containers) == len(self._last) and all(map(is_, containers, self._last)):
            return self._owners
        self._last = tuple(containers)
        self._owners = self._found(containers)
        return self._owners

    def _found(self, containers: Sequence[ContainerDescription]) -> set[str]:
        known = self._inodes
        self._inodes = {}
        taken: set[int | str] = set()
        host: int | None = -1
        owners: set[str] = set()
        for one in containers:
            network = one.network
            if network.mode == "none" or shares_namespace(network.mode):
                continue
            key = (one.id, one.pid)
            if key in known:
                inode = known[key]
            else:
                if host == -1:
                    host = self._inode(1)
                inode = self._inode(one.pid)
                if inode is not None and inode == host:
                    inode = 0  # the host's network, whatever its description says
            self._inodes[key] = inode
            if inode == 0:
                continue
            marks = [mark for mark in (inode, network.sandbox) if mark]
            if not taken.intersection(marks):
                owners.add(one.id)
            taken.update(marks)
        return owners

    def _inode(self, pid: int) -> int | None:
        """The number of the process's network namespace; None where we may not know."""
        try:
            return os.stat(self._procfs / str(pid) / "ns" / "net").st_ino  # noqa: PTH116 - Path.stat does the same with more work
        except OSError:
            return None
