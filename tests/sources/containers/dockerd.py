"""Docker's engine: Debian's 20.10, and 29 from `real_engines/build.sh`.

It has no bridge and changes no iptables, so engines do not affect each other or the machine.
`live-restore` keeps containers running while the engine is down.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.parts import missing
from tests.sources.containers.engine import Engine, remove_cgroups

DOCKERD = Path("/usr/sbin/dockerd")  # by path: another Docker may come first in PATH
_DEFAULT_NETWORK = "default-bridge"


class Dockerd(Engine):
    """Debian's docker.io."""

    name: ClassVar[str] = "docker"
    title: ClassVar[str] = "Docker 20.10"
    api: ClassVar[str] = "1.41"
    _folders: ClassVar[tuple[str, ...]] = ("exec",)

    def __init__(self, storage: str = "vfs") -> None:
        """storage: Docker's storage driver; vfs works on every file system, but copies a lot."""
        self._storage = storage
        if not self._program().exists():
            missing(f"{self._program()} is missing ({self._package()})")
        super().__init__()

    def _program(self) -> Path:
        return DOCKERD

    def _package(self) -> str:
        return "Debian's docker.io"

    def _config(self) -> dict[str, Any]:
        """Returns the content of daemon.json: its own file, so that the machine's is not read."""
        return {}

    def _command(self) -> tuple[str, ...]:
        config = self.folder / "daemon.json"
        config.write_text(json.dumps(self._config()))
        return (
            *(str(self._program()), "--config-file", str(config), "-H", self.url),
            *("--data-root", str(self.folder / "data")),
            *("--exec-root", str(self.folder / "exec")),
            *("--pidfile", str(self.folder / "pid"), "--storage-driver", self._storage),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"),
        )

    def _remove_containers(self) -> None:
        # Processes that the engine can no longer remove are killed afterwards.
        with contextlib.suppress(Exception), self.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.networks.prune()

    def close(self) -> None:
        folder = self.folder / "data" / "containers"
        self._ids = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        super().close()

    def _remove_cgroups(self) -> None:
        remove_cgroups(*(f"docker/{container_id}" for container_id in self._ids))


class Docker29(Dockerd):
    """Docker 29 with the image store of earlier versions."""

    name: ClassVar[str] = "docker29"
    title: ClassVar[str] = "Docker 29"
    api: ClassVar[str] = "1.56"
    runtime: ClassVar[str] = "rc"
    limitations: ClassVar[Mapping[str, str]] = {
        "stats after a restart": "after a restart of its own with `live-restore`, `stats` of a"
        " container in the network `none` returns 500",
    }
    _containerd_store: ClassVar[bool] = False

    def import_image(self) -> None:
        super().import_image()
        with self.client() as client:
            client.networks.create(_DEFAULT_NETWORK, driver="bridge")

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        # Without a bridge it starts containers, but cannot rename them; for `none` see above.
        has_network = options.keys() & {"network", "network_mode"}
        return options if has_network else {"network": _DEFAULT_NETWORK, **options}

    def _folder(self) -> Path:
        """Returns the folder of `tests/sources/containers/real_engines/build.sh`."""
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = os.environ.get("DOCKER_29")
        return Path(folder) if folder else Path(caches) / "inference-exporter" / "docker-29"

    def _program(self) -> Path:
        return self._folder() / "dockerd"

    def _package(self) -> str:
        return "tests/sources/containers/real_engines/build.sh"

    def _config(self) -> dict[str, Any]:
        if shutil.which("containerd") is None:
            missing("containerd is missing (Debian's containerd)")
        return {
            "features": {"containerd-snapshotter": self._containerd_store},
            # Debian's runc is too old for it.
            "runtimes": {self.runtime: {"path": str(self._folder() / "runc")}},
            "default-runtime": self.runtime,
            "seccomp-profile": "unconfined",
            "userland-proxy": False,
        }


class Docker29Containerd(Docker29):
    """Docker 29 with containerd's image store, the default of new installations."""

    name: ClassVar[str] = "docker29-containerd"
    title: ClassVar[str] = "Docker 29, containerd's image store"
    _containerd_store: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__("native")  # containerd's name for what Docker calls vfs
