"""Simulated containers around the demo's real processes: an engine's API and cgroup files.

    python containers.py FOLDER NAME=PID...

Serves Docker's API, as far as the exporter reads it, at FOLDER/docker.sock, and writes a /proc and
a /sys in which the processes are in containers: FOLDER/proc and FOLDER/sys lead to the real ones,
except for the cgroups. CPU time, memory and threads are those of the real processes; limits,
throttling, pressure, network and disk traffic are invented. Images are named `simulated/…`.

Uses only Python's standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

API_VERSION = "1.43"
PERIOD = 100_000  # microseconds of a CPU quota's period
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
UPDATE_SECONDS = 1.0
# The files of a process that the exporter reads, besides those that are simulated.
PROCESS_FILES = ("comm", "stat", "status", "cmdline", "fd")


@dataclass(frozen=True, slots=True)
class Container:
    """A container. cpus: quota. memory: limit in MiB. gpus: device IDs.

    received, sent, read, written: bytes per second. throttled: share of the quota's periods.
    waiting: share of time of the pressure, of CPU, memory and I/O. exit_code: of an ended one.
    """

    name: str
    cpus: float = 1.0
    memory: int = 512
    gpus: tuple[str, ...] = ()
    received: float = 200e3
    sent: float = 100e3
    read: float = 40e3
    written: float = 20e3
    throttled: float = 0.01
    waiting: tuple[float, float, float] = (0.02, 0.001, 0.004)
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def image(self) -> str:
        return f"simulated/{self.name}:demo"

    def all_labels(self) -> dict[str, str]:
        compose = {"project": "demo", "service": self.name}
        return {**{f"com.docker.compose.{key}": compose[key] for key in compose}, **self.labels}


CONTAINERS = (
    Container("triton", cpus=4, memory=4096, gpus=("0", "1"), received=900e3, sent=300e3),
    Container("llm", memory=256, gpus=("2", "3"), read=2e6, restarts=1),
    Container("gateway", cpus=0.5, memory=64),
    Container("load", cpus=0.2, memory=64, throttled=0.35, waiting=(0.3, 0.001, 0.001)),
    Container("weights", exit_code=137, oom_killed=True, restarts=3),
)


@dataclass(slots=True)
class State:
    """The running demo: PIDs and labels by container name, and the time of the start."""

    pids: Mapping[str, int]
    labels: Mapping[str, Mapping[str, str]]
    started: float = field(default_factory=time.time)
    ended: threading.Event = field(default_factory=threading.Event)

    def pid(self, container: Container) -> int:
        return 0 if container.exit_code is not None else self.pids.get(container.name, 0)

    @property
    def containers(self) -> list[Container]:
        return [c for c in CONTAINERS if c.exit_code is not None or c.name in self.pids]

    def labels_of(self, container: Container) -> dict[str, str]:
        return {**container.all_labels(), **self.labels.get(container.name, {})}


# -- Docker's API --


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def summary(container: Container, state: State) -> dict[str, Any]:
    """Returns an element of GET /containers/json."""
    minutes = int((time.time() - state.started) / 60)
    running = container.exit_code is None
    status = f"Up {minutes} minutes" if minutes > 1 else "Up About a minute"
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.image,
        "Labels": state.labels_of(container),
        "State": "running" if running else "exited",
        "Status": status if running else f"Exited ({container.exit_code}) 1 minute ago",
        "Created": int(state.started),
    }


def inspect(container: Container, state: State) -> dict[str, Any]:
    """Returns GET /containers/ID/json."""
    running = container.exit_code is None
    request = {"Driver": "nvidia", "DeviceIDs": list(container.gpus), "Capabilities": [["gpu"]]}
    return {
        "Id": container.id,
        "Name": f"/{container.name}",
        "Image": f"sha256:{container.id}",
        "RestartCount": container.restarts,
        "State": {
            "Status": "running" if running else "exited",
            "Pid": state.pid(container),
            "StartedAt": timestamp(state.started),
            "FinishedAt": timestamp(0 if running else state.started),
            "ExitCode": container.exit_code or 0,
            "OOMKilled": container.oom_killed,
        },
        "Config": {"Image": container.image, "Labels": state.labels_of(container)},
        "HostConfig": {
            "Memory": container.memory * MIB,
            "NanoCpus": int(container.cpus * 1e9),
            "NetworkMode": "demo",
            "DeviceRequests": [request] if container.gpus else [],
        },
        "NetworkSettings": {"Networks": {"demo": {"IPAddress": "127.0.0.1"}}},
    }


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: str, state: State) -> None:
        self.state = state
        super().__init__(path, Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        state = self.server.state
        path = self.path.partition("?")[0]
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        if path == "/events":
            self.stream(state)
        elif path == "/_ping":
            self.reply("OK")
        elif path == "/version":
            self.reply({"ApiVersion": API_VERSION, "Version": "simulated"})
        elif path == "/containers/json":
            self.reply([summary(container, state) for container in state.containers])
        else:
            named = {f"/containers/{c.id}/json": c for c in state.containers}
            if path in named:
                self.reply(inspect(named[path], state))
            else:
                self.reply({"message": "not simulated"}, 404)

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def reply(self, content: Any, status: int = 200) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def stream(self, state: State) -> None:
        """The event stream: no event ever."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        state.ended.wait()
        self.close_connection = True

    def address_string(self) -> str:
        return "unix"  # a Unix socket's client has no address

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


# -- /proc and /sys --


def process_usage(pid: int) -> tuple[int, int, int, int]:
    """Returns (user and system microseconds, bytes, threads) of a process and its children."""
    user = system = memory = threads = 0
    with suppress(OSError):  # it ends
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (str(pid), *children):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11]) * 1_000_000 // TICKS
            system += int(fields[12]) * 1_000_000 // TICKS
            threads += int(fields[17])
            memory += int(fields[21]) * PAGE
    return user, system, memory, threads


def pressure(share: float, age: float) -> str:
    total = int(share * age * 1e6)
    averages = f"avg10={100 * share:.2f} avg60={100 * share:.2f} avg300={100 * share:.2f}"
    return f"some {averages} total={total}\nfull {averages} total={total // 3}\n"


def cgroup_files(container: Container, pid: int, age: float) -> dict[str, str]:
    """Returns the texts of a cgroup's files (v2). age: seconds since the start."""
    user, system, memory, threads = process_usage(pid)
    periods = int(age * 1e6 / PERIOD)
    throttled = int(periods * container.throttled)
    cache = 8 * MIB
    cpu, mem, io = container.waiting
    return {
        "cpu.stat": (
            f"usage_usec {user + system}\nuser_usec {user}\nsystem_usec {system}\n"
            f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {throttled * 20_000}\n"
        ),
        "cpu.max": f"{int(container.cpus * PERIOD)} {PERIOD}\n",
        "memory.current": f"{memory + cache}\n",
        "memory.max": f"{container.memory * MIB}\n",
        "memory.peak": f"{memory + 2 * cache}\n",
        "memory.swap.current": "0\n",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
        "memory.stat": (
            f"anon {memory}\nfile {cache}\nfile_mapped {MIB}\nfile_dirty 0\nfile_writeback 0\n"
            f"inactive_anon 0\ninactive_file {cache // 2}\nactive_file {cache // 2}\n"
            f"pgfault {int(age * 100)}\npgmajfault {int(age)}\n"
        ),
        "io.stat": (
            f"8:0 rbytes={int(container.read * age)} wbytes={int(container.written * age)}"
            f" rios={int(age * 10)} wios={int(age * 5)} dbytes=0 dios=0\n"
        ),
        "pids.current": f"{threads}\n",
        "pids.max": "max\n",
        "cgroup.procs": f"{pid}\n",
        "cpu.pressure": pressure(cpu, age),
        "memory.pressure": pressure(mem, age),
        "io.pressure": pressure(io, age),
    }


def net_dev(container: Container, age: float) -> str:
    """Returns the text of /proc/PID/net/dev."""
    received, sent = int(container.received * age), int(container.sent * age)
    packets = (received // 1000, sent // 1000)
    return (
        "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed"
        " multicast|bytes packets errs drop fifo colls carrier compressed\n"
        f"  eth0: {received} {packets[0]} 0 {int(age / 60)} 0 0 0 0"
        f" {sent} {packets[1]} 0 0 0 0 0 0\n"
    )


def write(path: Path, text: str) -> None:
    """Replaces a file's content; the exporter keeps the file open."""
    content = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def link_all(folder: Path, original: Path, without: tuple[str, ...]) -> None:
    """Creates a folder with links to all entries of another, without some and without processes."""
    folder.mkdir(parents=True)
    for entry in original.iterdir():
        if entry.name not in without and not entry.name.isdecimal():
            (folder / entry.name).symlink_to(entry)


class Trees:
    """The trees FOLDER/proc and FOLDER/sys."""

    def __init__(self, folder: Path, state: State) -> None:
        self._state = state
        self._proc, self._cgroups = folder / "proc", folder / "sys" / "fs" / "cgroup"
        link_all(self._proc, Path("/proc"), ())
        (self._proc / "1").symlink_to("/proc/1")
        link_all(folder / "sys", Path("/sys"), ("fs",))
        link_all(folder / "sys" / "fs", Path("/sys/fs"), ("cgroup",))
        self._cgroups.mkdir()
        (self._cgroups / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        for container in state.containers:
            if pid := state.pid(container):
                self._add(container, pid)
        self.update()

    def _add(self, container: Container, pid: int) -> None:
        process = self._proc / str(pid)
        (process / "net").mkdir(parents=True)
        (process / "cgroup").write_text(f"0::/docker/{container.id}\n")
        for name in PROCESS_FILES:
            (process / name).symlink_to(f"/proc/{pid}/{name}")
        self._folder(container).mkdir(parents=True)

    def _folder(self, container: Container) -> Path:
        return self._cgroups / "docker" / container.id

    def update(self) -> None:
        """Writes the current values."""
        age = time.time() - self._state.started
        for container in self._state.containers:
            if pid := self._state.pid(container):
                for name, text in cgroup_files(container, pid, age).items():
                    write(self._folder(container) / name, text)
                write(self._proc / str(pid) / "net" / "dev", net_dev(container, age))


def main() -> None:
    folder = Path(sys.argv[1])
    pids: dict[str, int] = {}
    labels: dict[str, dict[str, str]] = {}
    for argument in sys.argv[2:]:
        name, pid, *pairs = argument.split(",")
        pids[name] = int(pid)
        labels[name] = dict(pair.split("=", 1) for pair in pairs)
    state = State(pids, labels)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: state.ended.set())
    trees = Trees(folder, state)
    with Server(str(folder / "docker.sock"), state) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while not state.ended.wait(UPDATE_SECONDS):
            trees.update()
        server.shutdown()


if __name__ == "__main__":
    main()
