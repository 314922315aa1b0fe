"""A real Podman with its Docker-compatible socket, in a temporary folder."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Self

from tests.containers.engine import BUSYBOX, wait_until
from tests.parts import missing

RUNC = "/usr/sbin/runc"  # crun refuses the hybrid layout of cgroups


class Podman:
    """One Podman of our own, with the image localhost/busy:1."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            missing("Podman is run as root here")
        for program, package in (("podman", "podman"), (RUNC, "runc")):
            if shutil.which(program) is None:
                missing(f"{program} is not there (Debian's {package})")
        if not BUSYBOX.exists():
            missing(f"{BUSYBOX} is not there (Debian's busybox-static)")
        self.folder = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))
        self.socket = self.folder / "s"
        self._service: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.call("import", "-", "busy:1", input=_image())
            self._service = subprocess.Popen(
                [*self._command(), "system", "service", "-t", "0", f"unix://{self.socket}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(self.socket.exists, 20, "Podman listens")
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

    def call(self, *arguments: str, input: bytes = b"") -> str:
        """Run a command of Podman's; gives what it prints."""
        done = subprocess.run(
            [*self._command(), *arguments], input=input, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout.decode().strip()

    def run(self, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Start a container in the background; gives its ID."""
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
        return self.call(
            *("run", "--detach", "--name", name, *limits, *options, "localhost/busy:1", *command)
        )

    def _command(self) -> list[str]:
        return [
            *("podman", "--root", str(self.folder / "root")),
            *("--runroot", str(self.folder / "run"), "--storage-driver", "vfs"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", RUNC),
        ]

    def close(self) -> None:
        """Remove everything: containers, the service, mounts, the folder."""
        subprocess.run(
            [*self._command(), "rm", "--force", "--all", "--time", "0"],
            capture_output=True,
            check=False,
        )
        if self._service is not None:
            self._service.send_signal(signal.SIGTERM)
            self._service.wait(20)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if (place := line.split()[4]).startswith(f"{self.folder}/"):
                subprocess.run(("umount", "--lazy", place), check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _image() -> bytes:
    """A tree with nothing but a static busybox."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tree:
            tree.add(BUSYBOX, "bin/busybox")
            for name in ("sh", "sleep", "true"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tree.addfile(link)
        return buffer.getvalue()
