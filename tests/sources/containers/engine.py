"""A real container engine for tests, in a temporary folder: start, stop, hang, restart, close.

The base class; `dockerd.py` and `podman.py` run their engines, `engines.py` selects the engines of
the tests. All are used through Docker's API. Containers keep running while their engine is down.
`close` leaves no process, mount or cgroup behind.
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
# The image of all containers; see Engine.image.
IMAGE = "busy:1"
# Factor of all timeouts: 10 in the virtual machine.
TIMEOUT_FACTOR = float(os.environ.get("TIMEOUT_FACTOR", "1"))
_APPLETS = ("sh", "sleep", "cat", "dd", "true", "tail", "mkdir")


def wait_until(condition: Callable[[], object], seconds: float, description: str) -> None:
    """Returns once the condition is true. Raises AssertionError after the timeout."""
    deadline = time.monotonic() + seconds * TIMEOUT_FACTOR
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {description}")
        time.sleep(0.02)


class Engine(abc.ABC):
    """An engine with one imported image (IMAGE: busybox)."""

    name: ClassVar[str]
    """Its name in the environment variable ENGINE."""
    title: ClassVar[str]
    """The title of its row in docs/engines.md."""
    image: ClassVar[str] = IMAGE
    """The engine's name of the image of a container started from IMAGE."""
    api: ClassVar[str]
    """Its version of Docker's API."""
    runtime: ClassVar[str] = "runc"
    """Its name of the runtime of its containers."""
    ended_states: ClassVar[tuple[str, ...]] = ("exited",)
    """Its states of a container that has ended."""
    limitations: ClassVar[Mapping[str, str]] = {}
    """Its limitations by keyword; docs/engines.md contains the same texts."""
    _folders: ClassVar[tuple[str, ...]]
    """Subfolders of `folder`; a process with one of them in its command line is the engine's."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            missing("the engine needs root")
        if not BUSYBOX.exists():
            missing(f"{BUSYBOX} is missing (Debian's busybox-static)")
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
        """The value of DOCKER_HOST."""
        return f"unix://{self.socket}"

    @contextlib.contextmanager
    def client(self) -> Iterator[docker.DockerClient]:
        """A client of the SDK, closed afterwards.

        It does not ask for the API's version: Podman runs dpkg-query for each of its programs then.
        """
        client = docker.DockerClient(
            base_url=self.url, version=self.api, timeout=round(60 * TIMEOUT_FACTOR)
        )
        try:
            yield client
        finally:
            client.close()

    @abc.abstractmethod
    def _command(self) -> tuple[str, ...]:
        """Returns the command that serves the socket, in the foreground."""

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        """Starts the engine and waits until it responds. Containers of an earlier run remain."""
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
        wait_until(self._responds, 60, f"the engine responds; its log ends:\n{self.log_tail()}")

    def log_tail(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _responds(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the engine ended on start:\n{self.log_tail()}")
        # Without the SDK: a client that cannot connect leaves its socket to the garbage collector.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        with self.client() as client:
            return bool(client.ping())

    def import_image(self) -> None:
        """Imports an image of a static busybox, as no registry may be reachable."""
        repository, tag = IMAGE.split(":")
        with self.client() as client:
            client.api.import_image_from_data(tree(), repository=repository, tag=tag)

    def run(self, name: str, command: tuple[str, ...], **options: Any) -> Container:
        """Starts a container in the background. The object holds no open connection."""
        with self.client() as client:
            return client.containers.run(
                IMAGE, list(command), name=name, detach=True, init=False, **self._options(options)
            )

    def run_to_completion(self, name: str, *command: str) -> None:
        """Runs a container in the foreground, and removes it."""
        with self.client() as client:
            client.containers.run(IMAGE, list(command), name=name, remove=True, **self._options({}))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns the SDK's options of a new container, with those that this engine needs."""
        return options

    def call(self, container: Container, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the SDK's container ("restart", "rename", "remove") on a new client."""
        with self.client() as client:
            return getattr(client.containers.get(str(container.id)), method)(*arguments, **options)

    def inspect(self, container: Container) -> dict[str, Any]:
        with self.client() as client:
            reply: dict[str, Any] = client.api.inspect_container(str(container.id))
            return reply

    def update(self, container: Container, memory: int, memory_and_swap: int) -> None:
        """Changes the limits, in bytes, of a running container."""
        self.call(container, "update", mem_limit=memory, memswap_limit=memory_and_swap)

    @contextlib.contextmanager
    def bridge(self, name: str) -> Iterator[None]:
        """Creates a network of the engine, removed afterwards."""
        with self.client() as client:
            network = client.networks.create(name, driver="bridge")
        try:
            yield
        finally:
            with self.client() as client:
                client.networks.get(str(network.id)).remove()

    def check_health(self, container: Container) -> None:  # noqa: B027 - most engines run it themselves
        """Runs the container's health check now, if the engine does not run it itself."""

    def hang(self) -> None:
        """Makes the engine accept connections and never respond (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stops the engine; its containers keep running."""
        if self.process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(30)
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
        """Removes containers, monitors, the engine, mounts, cgroups and the folder."""
        atexit.unregister(self.close)
        self._signal(signal.SIGCONT)
        self._remove_containers()
        self.stop()
        wait_until(self._kill_leftovers, 30, f"every process of {self.folder} ended")
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
        """Removes as many as possible; raises nothing."""

    @abc.abstractmethod
    def _remove_cgroups(self) -> None:
        """Removes the cgroups that killed containers leave behind."""

    def _kill_leftovers(self) -> bool:
        """Kills processes of the engine's folders (containers' monitors), and their children.

        Returns whether none was left.
        """
        found = False
        for pid in _pids():
            command = _read_bytes(f"/proc/{pid}/cmdline")
            if any(os.fsencode(f"{self.folder}/{name}/") in command for name in self._folders):
                found = True
                for victim in (*_children(pid), pid):
                    with contextlib.suppress(ProcessLookupError):  # ended already
                        os.kill(victim, signal.SIGKILL)
        return not found


def tree() -> bytes:
    """Returns the files of an image, as a tar archive."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as files:
            files.add(BUSYBOX, "bin/busybox")
            for name in _APPLETS:
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                files.addfile(link)
        return buffer.getvalue()


def archive(name: str) -> bytes:
    """Returns a tar archive of one empty file."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as files:
            files.addfile(tarfile.TarInfo(name))
        return buffer.getvalue()


def remove_cgroups(*patterns: str) -> None:
    """Removes empty cgroups in every hierarchy, by patterns below its root."""
    root = Path("/sys/fs/cgroup")
    for pattern in patterns:
        for folder in (*root.glob(pattern), *root.glob(f"*/{pattern}")):
            with contextlib.suppress(
                OSError
            ):  # co-mounted hierarchies contain the same folder twice
                folder.rmdir()


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # the process has ended
        return b""


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read_bytes(f"/proc/{pid}/task/{pid}/children").split()]
