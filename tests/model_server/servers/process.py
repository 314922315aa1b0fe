"""A model server as a process on loopback: start, stop, kill, hang, restart."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.waiting import until

Command = Callable[[Sequence[int]], Sequence[str]]


@dataclass(eq=False)
class Process:
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

    def __enter__(self) -> Self:
        try:
            self.start()
            self.await_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the server; it is not ready yet."""
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
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(10)
        until(self._none_left, f"the end of {self.log}", every=0.05)

    def _none_left(self) -> bool:
        return not self.signal(signal.SIGKILL)

    def hang(self) -> None:
        """Sends SIGSTOP: the kernel still accepts connections, but no response follows."""
        for pid in self.signal(signal.SIGSTOP):
            tasks = Path(f"/proc/{pid}/task")
            until(lambda t=tasks: {_state(path) for path in t.glob("*/stat")} == {"T"}, "to hang")  # type: ignore[misc]  # a default binds

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
        """Returns the PIDs of the server and its children, from /proc/PID/environ."""
        marked = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # exited meanwhile
                if self._mark.encode() in path.read_bytes().split(b"\0"):
                    marked.append(int(path.parent.name))
        return marked

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the server and its children, ended ones included."""
        ticks = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _state(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]


def free_ports(count: int) -> list[int]:
    """Returns ports of 127.0.0.1 that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]
