"""A real container engine for tests: started in a temporary folder, stopped, hung, restarted, gone.

What every engine has in common; `dockerd.py` and `podman.py` say how theirs is run, `engines.py`
which of them the tests run on. They are all spoken to by Docker's API. Containers keep running
while their engine is down. Whatever happens, `close` leaves no process, mount or cgroup behind.
"""

from __future__ import annotations

import abc
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import docker
from docker.models.containers import Container

from tests.parts import missing

BUSYBOX = Path("/usr/bin/busybox")
# What containers are started from; see Engine.image.
IMAGE = "busy:1"
# How much longer than usual things may take: in an emulated machine, ten times.
TIMEOUT_FACTOR = float(os.environ.get("TIMEOUT_FACTOR", "1"))
_APPLETS = ("sh", "sleep", "cat", "dd", "true", "tail", "mkdir")


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Return as soon as the condition holds; fail where it does not in time."""
    end = time.monotonic() + seconds * TIMEOUT_FACTOR
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Engine(abc.ABC):
    """One engine of our own, with one imported image (IMAGE: busybox)."""

    name: ClassVar[str]
    """What ENGINE calls it."""
    title: ClassVar[str]
    """What its row in docs/engines.md is called."""
    image: ClassVar[str] = IMAGE
    """What the engine calls the image of a container started from IMAGE."""
    api: ClassVar[str]
    """The version of Docker's API that it speaks."""
    runtime: ClassVar[str] = "runc"
    """What it calls the runtime of its containers."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """What it does not do, in words that docs/engines.md has too."""
    _folders: ClassVar[tuple[str, ...]]
    """Below our own; what names one of them in its command line belongs to the engine."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            missing("the engine needs root")
        if not BUSYBOX.exists():
            missing(f"{BUSYBOX} is not there (Debian's busybox-static)")
        # Short: the path of a Unix socket has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
        self.socket = self.folder / "docker.sock"
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

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
        client = docker.DockerClient(
            base_url=self.url, version="auto", timeout=round(20 * TIMEOUT_FACTOR)
        )
        try:
            yield client
        finally:
            client.close()

    @abc.abstractmethod
    def _command(self) -> tuple[str, ...]:
        """The program that listens at the socket, in the foreground."""

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        """Start it and wait until it answers. Containers of an earlier run are found again."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )
        wait_until(self._answers, 30, f"the engine answers; its log ends:\n{self.log_tail()}")

    def log_tail(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the engine ended at once:\n{self.log_tail()}")
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
        repository, tag = IMAGE.split(":")
        with self.client() as client:
            client.api.import_image_from_data(tree(), repository=repository, tag=tag)

    def run(self, name: str, command: tuple[str, ...], **options: Any) -> Container:
        """Start a container in the background. The object holds no open connection."""
        with self.client() as client:
            return client.containers.run(
                IMAGE, list(command), name=name, detach=True, init=False, **self._options(options)
            )

    def run_to_its_end(self, name: str, *command: str) -> None:
        """Run a container in the foreground, and remove it."""
        with self.client() as client:
            client.containers.run(IMAGE, list(command), name=name, remove=True, **self._options({}))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The SDK's options of a new container, with what this engine needs besides."""
        return options

    def call(self, container: Container, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the SDK's container ("restart", "rename", "remove") on a new client."""
        with self.client() as client:
            return getattr(client.containers.get(str(container.id)), method)(*arguments, **options)

    def inspect(self, container: Container) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = client.api.inspect_container(str(container.id))
            return answer

    def update(self, container: Container, memory: int, memory_and_swap: int) -> None:
        """Change the container's limits, in bytes, while it runs."""
        self.call(container, "update", mem_limit=memory, memswap_limit=memory_and_swap)

    @contextlib.contextmanager
    def bridge(self, name: str) -> Iterator[None]:
        """A network of the engine's, removed afterwards."""
        with self.client() as client:
            made = client.networks.create(name, driver="bridge")
        try:
            yield
        finally:
            with self.client() as client:
                client.networks.get(str(made.id)).remove()

    def check_health(self, container: Container) -> None:  # noqa: B027 - most have nothing to do
        """Run the container's health check now, where the engine does not by itself."""

    def hang(self) -> None:
        """Make it accept connections and never answer (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the engine; its containers stay."""
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
        """Remove everything: containers, monitors, the engine, mounts, cgroups, the folder."""
        atexit.unregister(self.close)
        self._signal(signal.SIGCONT)
        self._remove_containers()
        self.stop()
        wait_until(self._kill_leftovers, 15, f"every process of {self.folder} ended")
        self._remove_cgroups()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = {
            place for line in lines if (place := line.split()[4]).startswith(f"{self.folder}/")
        }
        for mount in sorted(mounts, reverse=True):
            subprocess.run(("umount", "--lazy", mount), check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @abc.abstractmethod
    def _remove_containers(self) -> None:
        """As far as it can still be done; raises nothing."""

    @abc.abstractmethod
    def _remove_cgroups(self) -> None:
        """Those that killed containers leave behind."""

    def _kill_leftovers(self) -> bool:
        """Kill what still names the engine's folders (monitors of containers), and its children."""
        found = False
        for pid in _pids():
            command = _bytes(f"/proc/{pid}/cmdline")
            if any(os.fsencode(f"{self.folder}/{name}/") in command for name in self._folders):
                found = True
                for victim in (*_children(pid), pid):
                    with contextlib.suppress(ProcessLookupError):  # ended by itself
                        os.kill(victim, signal.SIGKILL)
        return not found


def tree() -> bytes:
    """The files of an image, as a tar."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as files:
            files.add(BUSYBOX, "bin/busybox")
            for name in _APPLETS:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                files.addfile(link)
        return buffer.getvalue()


def remove_cgroups(*patterns: str) -> None:
    """Remove empty cgroups, in every hierarchy, by patterns below the root of each."""
    root = Path("/sys/fs/cgroup")
    for pattern in patterns:
        for folder in (*root.glob(pattern), *root.glob(f"*/{pattern}")):
            with contextlib.suppress(OSError):  # co-mounted hierarchies show the same folder twice
                folder.rmdir()


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # the process ended meanwhile
        return b""


def _children(pid: int) -> list[int]:
    return [int(child) for child in _bytes(f"/proc/{pid}/task/{pid}/children").split()]
