"""The real engines of the tests: those in ENGINE, separated by commas; by default those of CI.

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


def selected() -> tuple[str, ...]:
    """Returns the names of the engines that the tests of this folder run on."""
    names = tuple(os.environ.get("ENGINE", "").split(",")) if os.environ.get("ENGINE") else CI
    if unknown := set(names) - KINDS.keys():
        raise ValueError(f"ENGINE={','.join(names)}: unknown engine: {', '.join(sorted(unknown))}")
    return names


def default_engine() -> Engine:
    """Returns the engine for tests of whole daemons, not started: the first selected one."""
    return KINDS[selected()[0]]()
