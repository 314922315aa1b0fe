"""The container that exports each network namespace's counters: each namespace counts once.

Blocking. The network mode of `inspect` identifies containers on the host's network (`host`) and in
another container's network namespace (`container:ID`). If the kernel permits it (root,
CAP_SYS_PTRACE), the inodes of the namespaces are compared too, which also finds namespaces shared
in other ways, such as in Podman's pods.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import is_
from pathlib import Path

from exporter.sources.containers.engine.description import ContainerDescription

_HOST_INODE = 0


def shares_namespace(mode: str) -> bool:
    """Returns whether a network mode means the host's or another container's network namespace.

    The name of a network is a mode, too: `hosting_default` is a network of its own.
    """
    return mode == "host" or mode.startswith(("container:", "ns:"))


class NetworkNamespaces:
    """Caches the network namespace of each container's first process."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._last: tuple[ContainerDescription, ...] = ()
        self._owners: set[str] = set()
        self._inodes: dict[tuple[str, int], int | None] = {}

    def owners(self, containers: Sequence[ContainerDescription]) -> set[str]:
        """Returns the IDs of the containers that export their namespace's counters."""
        if len(containers) == len(self._last) and all(map(is_, containers, self._last)):
            return self._owners
        self._last = tuple(containers)
        self._owners = self._find_owners(containers)
        return self._owners

    def _find_owners(self, containers: Sequence[ContainerDescription]) -> set[str]:
        cached = self._inodes
        self._inodes = {}
        owned: set[int | str] = set()
        host: int | None = -1
        owners: set[str] = set()
        for container in containers:
            network = container.network
            if network.mode == "none" or shares_namespace(network.mode):
                continue
            key = (container.id, container.pid)
            if key in cached:
                inode = cached[key]
            else:
                if host == -1:
                    host = self._inode(1)
                inode = self._inode(container.pid)
                if inode is not None and inode == host:
                    inode = _HOST_INODE  # on the host's network, despite its network mode
            self._inodes[key] = inode
            if inode == _HOST_INODE:
                continue
            namespaces = [namespace for namespace in (inode, network.sandbox) if namespace]
            if not owned.intersection(namespaces):
                owners.add(container.id)
            owned.update(namespaces)
        return owners

    def _inode(self, pid: int) -> int | None:
        """Returns the inode of /proc/PID/ns/net; None without permission or process."""
        try:
            return os.stat(self._procfs / str(pid) / "ns" / "net").st_ino  # noqa: PTH116 - Path.stat does the same with more work
        except OSError:
            return None
