"""A real dockerd for tests: started in a temporary folder, stopped, hung, restarted, cleared away.

It has no bridge and touches no iptables, so engines do not disturb one another or the machine.
`live-restore` keeps containers running while the engine is down. Whatever happens, `close` leaves
no process, mount or cgroup of it behind.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import docker
from docker.models.containers import Container

from tests.parts import missing

DOCKERD = Path("/usr/sbin/dockerd")  # by path: another Docker's client may come first on the PATH
BUSYBOX = Path("/usr/bin/busybox")
IMAGE = "busy:1"
# How much longer than usual things may take: in an emulated machine, ten times.
PATIENCE = float(os.environ.get("PATIENCE", "1"))
_APPLETS = ("sh", "sleep", "cat", "dd", "true", "tail", "mkdir")


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as the condition holds; fail where it does not in time."""
    end = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Engine:
    """One dockerd of our own, with one imported image (IMAGE: busybox)."""

    def __init__(self, storage: str = "vfs") -> None:
        """storage: Docker's storage driver; vfs works on every file system, and copies a lot."""
        self._storage = storage
        self._check_parts()
        # Short: the path of a Unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
        self.socket = self.folder / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    @staticmethod
    def _check_parts() -> None:
        if os.geteuid() != 0:
            missing("dockerd needs root")
        for path, package in ((DOCKERD, "docker.io"), (BUSYBOX, "busybox-static")):
            if not path.exists():
                missing(f"{path} is not there (Debian's {package})")

    def __enter__(self) -> Self:
        try:
            self.start()
            self.import_image()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What DOCKER_HOST would be set to."""
        return f"unix://{self.socket}"

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """A client of the SDK, closed afterwards."""
        client = docker.DockerClient(base_url=self.url, version="auto", timeout=20)
        try:
            yield client
        finally:
            client.close()

    def start(self) -> None:
        """Start dockerd and wait until it answers. Containers of an earlier run are found again."""
        config = self.folder / "daemon.json"
        config.write_text("{}")  # so that the machine's own file is not read
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                (
                    *(str(DOCKERD), "--config-file", str(config), "-H", self.url),
                    *("--data-root", str(self.folder / "data")),
                    *("--exec-root", str(self.folder / "exec")),
                    *("--pidfile", str(self.folder / "pid"), "--storage-driver", self._storage),
                    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_until(self._answers, 30, f"dockerd answers; its log ends:\n{self.log_tail()}")

    def log_tail(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"dockerd ended at once:\n{self.log_tail()}")
        # By hand: a client of the SDK that cannot connect leaves its socket for the collector.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        with self.client() as client:
            return bool(client.ping())

    def import_image(self) -> None:
        """An image with nothing but a static busybox, as no registry can be counted on."""
        with io.BytesIO() as buffer:
            with tarfile.open(fileobj=buffer, mode="w") as tree:
                tree.add(BUSYBOX, "bin/busybox")
                for name in _APPLETS:
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    tree.addfile(link)
            repository, tag = IMAGE.split(":")
            with self.client() as client:
                client.api.import_image_from_data(buffer.getvalue(), repository=repository, tag=tag)

    def run(self, name: str, command: tuple[str, ...], **options: Any) -> Container:
        """Start a container in the background. The object holds no open connection."""
        with self.client() as client:
            return client.containers.run(
                IMAGE, list(command), name=name, detach=True, init=False, **options
            )

    def call(self, container: Container, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the SDK's container ("restart", "rename", "remove") on a new client."""
        with self.client() as client:
            return getattr(client.containers.get(str(container.id)), method)(*arguments, **options)

    def inspect(self, container: Container) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = client.api.inspect_container(str(container.id))
            return answer

    def hang(self) -> None:
        """Make it accept connections and never answer (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End dockerd; containers stay (live-restore)."""
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait(15)
        self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """Remove everything: containers, shims, dockerd, mounts, cgroups, the folder."""
        atexit.unregister(self.close)
        ids = self._container_ids()
        self._signal(signal.SIGCONT)
        # Whatever the engine cannot remove any more is killed below.
        with contextlib.suppress(Exception), self.client() as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
        self.stop()
        wait_until(self._kill_leftovers, 15, f"every process of {self.folder} ended")
        for identity in ids:
            _remove_cgroups(identity)
        for mount in sorted(self._mounts(), reverse=True):
            subprocess.run(("umount", "--lazy", mount), check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _container_ids(self) -> list[str]:
        folder = self.folder / "data" / "containers"
        return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []

    def _kill_leftovers(self) -> bool:
        """Kill what still names our folder (containerd, shims) and what runs under it by pid."""
        found = False
        for pid in _pids():
            command = _bytes(f"/proc/{pid}/cmdline")
            if pid != os.getpid() and os.fsencode(f"{self.folder}/exec/") in command:
                found = True
                for victim in (*_children(pid), pid):
                    with contextlib.suppress(ProcessLookupError):  # ended by itself
                        os.kill(victim, signal.SIGKILL)
        return not found

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [place for line in lines if (place := line.split()[4]).startswith(f"{self.folder}/")]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # the process ended meanwhile
        return b""


def _children(pid: int) -> list[int]:
    return [int(child) for child in _bytes(f"/proc/{pid}/task/{pid}/children").split()]


def _remove_cgroups(container: str) -> None:
    """Remove the empty cgroups that a killed container leaves behind, in every hierarchy."""
    for folder in (
        *Path("/sys/fs/cgroup").glob(f"docker/{container}"),
        *Path("/sys/fs/cgroup").glob(f"*/docker/{container}"),
    ):
        with contextlib.suppress(OSError):  # co-mounted hierarchies show the same folder twice
            folder.rmdir()


@dataclass(frozen=True, slots=True)
class Three:
    """Three containers for tests of the whole."""

    busy: Container
    """Burns its CPU quota of 20 % under a limit of 64 MiB."""
    idle: Container
    """Sleeps, without limits, with 2 MiB of inactive page cache; labelled as the service `cache`
    of the compose project `shop`."""
    restarted: Container
    """Sleeps; the one to restart during a test."""

    def all(self) -> tuple[Container, ...]:
        return (self.busy, self.idle, self.restarted)


@contextlib.contextmanager
def three_containers(engine: Engine, prefix: str = "") -> Iterator[Three]:
    """Run the three containers `busy`, `idle`, `restarted`; removed afterwards."""
    sleep = ("sleep", "1000000")
    names = [f"{prefix}{name}" for name in ("busy", "idle", "restarted")]
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "cache"}
    started: list[Container] = []
    try:
        started.append(
            engine.run(
                names[0],
                ("sh", "-c", "while :; do :; done"),
                cpu_period=100_000,
                cpu_quota=20_000,
                mem_limit=64 << 20,
            )
        )
        fill = "dd if=/dev/zero of=/file bs=1M count=2; exec sleep 1000000"
        started.append(engine.run(names[1], ("sh", "-c", fill), labels=labels))
        started.append(engine.run(names[2], sleep))
        yield Three(*started)
    finally:
        engine.resume()
        if engine.process is None:
            engine.start()
        for container in started:
            with contextlib.suppress(docker.errors.NotFound):  # the test removed it
                engine.call(container, "remove", force=True)
