"""Which real engines the tests run on: ENGINE names them, with commas; else those of CI.

Docker 29 is not in CI, as it takes minutes to build: `make engines`.
"""

from __future__ import annotations

import os

from tests.sources.containers.dockerd import Docker29, Docker29Containerd, Dockerd
from tests.sources.containers.engine import Engine
from tests.sources.containers.podman import Podman

KINDS: dict[str, type[Engine]] = {
    kind.name: kind for kind in (Dockerd, Podman, Docker29, Docker29Containerd)
}
CI = ("docker", "podman")


def chosen() -> tuple[str, ...]:
    """The engines that every test of the source runs on, by name."""
    names = tuple(os.environ.get("ENGINE", "").split(",")) if os.environ.get("ENGINE") else CI
    if unknown := set(names) - KINDS.keys():
        raise ValueError(f"ENGINE={','.join(names)}: no such engine: {', '.join(sorted(unknown))}")
    return names


def first() -> Engine:
    """The engine that tests of whole daemons run on: the first of those chosen. Not started."""
    return KINDS[chosen()[0]]()
