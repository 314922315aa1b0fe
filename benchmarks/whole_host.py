"""The standard host with the costs of a real driver: what benchmarks.whole and its soak measure on.

GPUs are the NVML stand-in with the answers and CPU costs of an H100 under load. The containers
(a fake engine and a cgroup v2 tree), a fake Triton and vLLM's pages change every 2.5 s. The rest of
/proc is that of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import shutil
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model_servers import page
from tests.fakes.cgroup_trees import Tree
from tests.fakes.container_engine import (
    FakeEngine,
    container_id,
    http_reply,
    inspect_path,
    inspect_reply,
)
from tests.fakes.nvml import cards, measured
from tests.fakes.nvml.standin import Driver
from tests.fakes.triton import FakeTriton, http_response, json_response, model
from tests.fakes.triton import statistics as model_statistics

CONTAINERS, MODELS, MODEL_SERVERS, GPUS = 100, 30, 10, 8
# Seconds between two changes of the values.
CHANGES_EVERY = 2.5
# Entries of the real /proc that the daemon reads, linked next to the fake processes.
PROC_ENTRIES = ("stat", "meminfo", "loadavg", "diskstats", "uptime", "pressure", "sys", "net", "1",
                "self", "mounts", "cpuinfo", "filesystems")  # fmt: skip
# Below the largest PID of Linux, 2^22; no other process of this machine has such a large one.
_FIRST_PID = 4_000_000
_MIB = 1 << 20


class Host:
    """The fakes of one host, by files and URLs. Used from one thread and its own."""

    def __init__(self, folder: Path, containers: int) -> None:
        self.folder = folder
        self.tree = Tree(folder)
        (folder / "proc").mkdir(parents=True)
        for name in PROC_ENTRIES:
            (folder / "proc" / name).symlink_to(f"/proc/{name}")
        self.engine = FakeEngine(containers=containers)
        self.engine.offer_events()
        self.numbers = list(range(1, containers + 1))
        self._lock = threading.Lock()
        self._next = itertools.count(containers + 1)
        self._socket = folder / "engine.sock"
        self._serving = contextlib.ExitStack()
        self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(target=self._loop.run_forever, name="fakes")
        self.triton = FakeTriton()
        self.triton.responses["/v2/repository/index"] = json_response(
            [{"name": f"model-{i}", "version": "1", "state": "READY"} for i in range(MODELS)]
        )
        self.model_servers = [FakeTriton() for _ in range(MODEL_SERVERS)]
        self._stop = threading.Event()
        self._changes = threading.Thread(target=self._change, name="changes")

    def start(self) -> None:
        for number in self.numbers:
            self._create(number)
        self.start_engine()
        self._set_replies(1)
        self._loop_thread.start()
        for server in (self.triton, *self.model_servers):
            self._run(server.listen())
        self._changes.start()

    def close(self) -> None:
        self._stop.set()
        self._changes.join()
        self._serving.close()
        for server in (self.triton, *self.model_servers):
            self._run(server.shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join()
        self._loop.close()

    def driver(self, folder: Path, state: str = "load") -> Driver:
        """Returns a driver for one daemon, which counts its calls; on it, processes of containers.

        state: of the GPUs, load or idle.
        """
        folder.mkdir()
        column = f"{measured.CARD}_{state}"
        driver = Driver(folder, gpus=GPUS, card=cards.factory(column))
        with driver.batch():
            for (function, name), value in measured.system(column).items():
                driver.system.set(function, **{name: value})
            for index in range(GPUS if state == "load" else 0):
                pids = [_FIRST_PID + 3 * index + offset for offset in (1, 2, 3)]
                driver.gpu(index).processes("Compute", *((pid, 1000 * _MIB) for pid in pids))
                driver.gpu(index).busy(*((pid, 1, 30) for pid in pids))
        driver.set_costs(measured.costs(column))
        return driver

    def arguments(self) -> list[str]:
        """Returns the daemon's flags for this host."""
        return [
            f"--path.sysfs={self.folder / 'sys'}",
            f"--path.procfs={self.folder / 'proc'}",
            f"--triton.url=main={self.triton.url}",
            *(
                f"--model-server.url=s{number}=http://{server.url}"
                for number, server in enumerate(self.model_servers)
            ),
        ]

    @property
    def engine_url(self) -> str:
        return f"unix://{self._socket}"

    def start_engine(self) -> None:
        self.engine.released.clear()
        self._serving.enter_context(self.engine.serving(self._socket))

    def stop_engine(self) -> None:
        """Stops the container engine; the containers go on, as with dockerd's live-restore."""
        self.engine.send_line(b"")
        self._serving.close()

    def start_triton(self) -> None:
        self._run(self.triton.listen())

    def stop_triton(self) -> None:
        self._run(self.triton.shut())

    def start_model_server(self, number: int) -> None:
        self._run(self.model_servers[number].listen())

    def stop_model_server(self, number: int) -> None:
        self._run(self.model_servers[number].shut())

    def churn(self, count: int) -> None:
        """Ends the oldest containers and starts as many others."""
        with self._lock:
            old, self.numbers = self.numbers[:count], self.numbers[count:]
            new = list(itertools.islice(self._next, count))
            for number in new:
                self._create(number)
            self.numbers += new
            for number in old:
                shutil.rmtree(self._cgroup(number))
                shutil.rmtree(self.folder / "proc" / str(_FIRST_PID + number))
            self.engine.set_containers(*self.numbers)
        for number in new:
            self.engine.send_event("start", number)
        for number in old:
            self.engine.send_event("die", number)

    def forget_requests(self) -> None:
        """Empties the fakes' records of requests, which would grow."""
        self.engine.paths.clear()
        self.engine.targets.clear()
        for server in (self.triton, *self.model_servers):
            server.requests.clear()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _create(self, number: int) -> None:
        self.tree.v2_full(f"docker/{container_id(number)}")
        pid = _FIRST_PID + number
        self.tree.process(f"0::/docker/{container_id(number)}\n", pid)
        inspected = inspect_reply(number)
        inspected["State"]["Pid"] = pid
        self.engine.replies[inspect_path(number)] = http_reply(inspected)

    def _cgroup(self, number: int) -> Path:
        return self.tree.root / "docker" / container_id(number)

    def _change(self) -> None:
        step = 1
        while not self._stop.wait(CHANGES_EVERY):
            step += 1
            self._set_replies(step)
            with self._lock:
                for number in self.numbers:
                    cgroup, cpu = self._cgroup(number), 1_000_000 * step + number
                    text = (cgroup / "cpu.stat").read_text()
                    _rewrite(cgroup / "cpu.stat", re.sub(r"(\w+_usec) \d+", rf"\1 {cpu}", text))
                    _rewrite(cgroup / "memory.current", f"{10_000 + 4096 * step + number}\n")

    def _set_replies(self, step: int) -> None:
        models = [model(f"model-{number}", scale=step) for number in range(MODELS)]
        self.triton.responses["/v2/models/stats"] = model_statistics(*models)
        vllm = http_response(page(step))
        for server in self.model_servers:
            server.responses = {"/metrics": vllm}


def _rewrite(file: Path, text: str) -> None:
    """Rewrites a file in place (same inode), because the daemon keeps it open."""
    with file.open("r+b") as stream:
        stream.write(text.encode())
        stream.truncate()


@contextlib.contextmanager
def hosts(folder: Path, sizes: Sequence[int]) -> Iterator[list[Host]]:
    """Serves a host for each number of containers."""
    with contextlib.ExitStack() as stack:
        made = []
        for size in sizes:
            host = Host(folder / f"host-{size}", size)
            host.start()
            stack.callback(host.close)
            made.append(host)
        yield made
