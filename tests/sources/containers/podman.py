"""Podman, through its Docker-compatible socket (Debian's podman, 4.3)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from docker.models.containers import Container

from tests.parts import missing
from tests.sources.containers.engine import IMAGE, Engine, remove_cgroups, tree

RUNC = "/usr/sbin/runc"  # crun refuses the hybrid cgroup layout
_BRIDGE = "/usr/lib/cni/bridge"
# Its default limits are higher than permitted if the tests run in a container.
_SETTINGS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
[network]
network_backend = "cni"
"""


class Podman(Engine):
    """Podman has no daemon: its service serves only the API; each container has a monitor."""

    name: ClassVar[str] = "podman"
    title: ClassVar[str] = "Podman 4.3"
    api: ClassVar[str] = "1.41"
    runtime: ClassVar[str] = "oci"
    image: ClassVar[str] = "localhost/busy:1"
    # stopped: until the container's monitor has run the cleanup, late on a busy machine.
    ended_states: ClassVar[tuple[str, ...]] = ("exited", "stopped")
    limitations: ClassVar[Mapping[str, str]] = {
        "device requests": "its socket drops device requests (`--gpus`)",
        "health checks": "runs no health checks without systemd",
        "image as written": "reports an image's full name, not the name as written",
        "interfaces": "`stats` has one interface, `network`, and counts only its bytes",
        "oom_killed": "does not report that the OOM killer ended a container",
        "parts of memory": "`stats` has only the total of memory",
        "size of layers": "reports 0 as the size of all layers",
        "update": "the socket has no call to change limits (`podman update` works)",
    }
    _folders: ClassVar[tuple[str, ...]] = ("root", "run")

    def __init__(self) -> None:
        parts = ("podman", "podman"), (RUNC, "runc"), (_BRIDGE, "containernetworking-plugins")
        for program, package in parts:
            if shutil.which(program) is None:
                missing(f"{program} is missing (Debian's {package})")
        super().__init__()
        self._settings = self.folder / "containers.conf"
        self._settings.write_text(_SETTINGS)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self._settings)}

    def podman(self, *arguments: str, stdin: bytes = b"") -> str:
        """Runs a podman command; returns its output."""
        result = self._call(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stderr.decode(errors="replace")[-2000:]
        return result.stdout.decode().strip()

    def _call(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self._podman(), *arguments],
            input=stdin,
            env=self._environment(),
            capture_output=True,
            check=False,
            timeout=60,
        )

    def _podman(self) -> tuple[str, ...]:
        return (
            *("podman", "--root", str(self.folder / "root")),
            *("--tmpdir", str(self.folder / "tmp")),  # /run/libpod has the event log of all engines
            *("--runroot", str(self.folder / "run"), "--storage-driver", "vfs"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", RUNC),
            *("--network-config-dir", str(self.folder / "net")),
        )

    def _command(self) -> tuple[str, ...]:
        return (*self._podman(), "system", "service", "-t", "0", self.url)

    def import_image(self) -> None:
        self.podman("import", "-", IMAGE, stdin=tree())

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return options if "network" in options else {"network_mode": "none", **options}

    def update(self, container: Container, memory: int, memory_and_swap: int) -> None:
        # The Docker-compatible socket has no such call.
        limits = ("--memory", str(memory), "--memory-swap", str(memory_and_swap))
        self.podman("update", *limits, str(container.id))

    @contextlib.contextmanager
    def bridge(self, name: str) -> Iterator[None]:
        with super().bridge(name):
            path = self.folder / "net" / f"{name}.conflist"
            config = json.loads(path.read_text())
            # Without plugins that change the machine's iptables.
            config["plugins"] = [
                {**plugin, "ipMasq": False}
                for plugin in config["plugins"]
                if plugin["type"] not in ("firewall", "portmap")
            ]
            # Podman reads a configuration again only if its folder has changed.
            path.unlink()
            path.write_text(json.dumps(config))
            yield

    def check_health(self, container: Container) -> None:
        # The timers of its health checks are systemd's.
        self._call("healthcheck", "run", str(container.id))  # the exit status is the health

    def _remove_containers(self) -> None:
        self._call("pod", "rm", "--force", "--all", "--time", "0")
        self._call("rm", "--force", "--all", "--time", "0")

    def _remove_cgroups(self) -> None:
        remove_cgroups("libpod_parent/libpod-*", "libpod_parent/conmon", "libpod_parent")
