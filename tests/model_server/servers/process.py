"""A model server as a process on loopback: start, stop, kill, hang, restart."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.server_process import RunningServer, await_stopped
from tests.waiting import until

Command = Callable[[Sequence[int]], Sequence[str]]


@dataclass(eq=False)
class Process(RunningServer):
    """`with Process(...)`: runs inside the block.

    command: from the ports to the arguments; ports[0] is the server's own.
    ready: the path that responds with 200 when the server is ready.
    metrics: the index of the port that has the metrics page.
    """

    folder: Path
    command: Command
    ready: str
    ports: Sequence[int]
    environment: Mapping[str, str] = field(default_factory=dict)
    metrics: int = 0
    deadline: float = 100
    start_seconds: float = 0
    """Seconds from the latest start until it was ready."""
    _started: float = 0
    _process: subprocess.Popen[bytes] | None = None
    _mark: str = field(default_factory=lambda: f"MODEL_SERVER_TEST={uuid.uuid4().hex}")
    """An environment variable that marks its processes; BentoML starts workers in own sessions."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def metrics_address(self) -> str:
        return f"127.0.0.1:{self.ports[self.metrics]}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def page(self) -> str:
        """Returns the server's own metrics page."""
        url = f"http://{self.metrics_address}/metrics"
        with urllib.request.urlopen(url, timeout=20) as response:
            text: str = response.read().decode()
        return text

    def start_ready(self) -> None:
        self.start()
        self.await_ready()

    def start(self) -> None:
        """Starts the server; it is not ready yet."""
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(self.ports),
                env={**os.environ, **self.environment, **dict([self._mark.split("=")])},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # no Ctrl-C of the terminal
            )

    def await_ready(self) -> None:
        until(self._is_ready, f"{self.log} ready", seconds=self.deadline, every=0.05)
        self.start_seconds = time.monotonic() - self._started

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text(errors="replace")[-3000:]
        try:
            url = f"http://{self.address}{self.ready}"
            with urllib.request.urlopen(url, timeout=5):
                pass
            with socket.create_connection(("127.0.0.1", self.ports[self.metrics]), timeout=5):
                return True
        except OSError:  # refused, or a status other than 200
            return False

    def kill(self) -> None:
        """Sends SIGKILL to the server and its children, as the OOM killer or a crash."""
        process = self._process
        if process is None:
            return
        self.signal(signal.SIGKILL)
        process.wait(10)
        until(self._none_left, f"the end of {self.log}", seconds=30, every=0.05)
        self._process = None

    def _none_left(self) -> bool:
        return not self.signal(signal.SIGKILL)

    def hang(self) -> None:
        """Sends SIGSTOP: the kernel still accepts connections, but no response follows."""
        for pid in self.signal(signal.SIGSTOP):
            await_stopped(pid)

    def go_on(self) -> None:
        """Ends a hang."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> list[int]:
        """Sends a signal to the server and its children; returns their PIDs."""
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # exited meanwhile
                os.kill(pid, number)
        return pids

    def pids(self) -> list[int]:
        """Returns the PIDs of the server and its children, zombies excluded.

        Its children have its mark in /proc/PID/environ, unless a title overwrites it as in vLLM, or
        are of its session.
        """
        assert self._process is not None
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # exited meanwhile
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                marked = self._mark.encode() in (folder / "environ").read_bytes().split(b"\0")
                if state != "Z" and (marked or int(session) == self._process.pid):
                    found.append(int(folder.name))
        return found

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the server and its children, ended ones included."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")
