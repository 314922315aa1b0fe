"""A real Triton server on the CPU, with a model repository made for the test."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.parts import missing
from tests.paths import ROOT
from tests.waiting import until

HERE = Path(__file__).parent
VENV = ROOT / ".venv-triton"
BINARY = VENV / "tritonserver" / "bin" / "tritonserver"
STUB = VENV / "tritonserver" / "backends" / "python" / "triton_python_backend_stub"

_SAMPLE = re.compile(r"(nv_\w+)\{(.*)\} (\S+)\Z")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Model:
    """A folder of the model repository. `config` is appended to its config.pbtxt."""

    name: str
    max_batch_size: int = 8
    config: str = ""
    code: str | None = None
    """The Python backend's model.py; tests/sources/triton/model/model.py unless given."""
    whole_config: str | None = None
    """In place of all that would be written to config.pbtxt but the name."""
    versions: tuple[int, ...] = (1,)

    def write(self, repository: Path) -> None:
        folder = repository / self.name
        for version in self.versions:
            (folder / str(version)).mkdir(parents=True)
        if self.whole_config is not None:
            (folder / "config.pbtxt").write_text(f'name: "{self.name}"\n{self.whole_config}')
        else:
            self._write_config(folder)
        code = self.code if self.code is not None else (HERE / "model/model.py").read_text()
        for version in self.versions:
            (folder / str(version) / "model.py").write_text(code)

    def _write_config(self, folder: Path) -> None:
        (folder / "config.pbtxt").write_text(
            f'name: "{self.name}"\nbackend: "python"\nmax_batch_size: {self.max_batch_size}\n'
            'input [{ name: "VALUE" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
            'output [{ name: "RESULT" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
            "instance_group [{ kind: KIND_CPU count: 1 }]\n" + self.config
        )


def batching(preferred: int, delay: float) -> str:
    """The part of a model's configuration that makes the server batch requests of its own accord.

    preferred: requests that make a batch; delay: seconds a request waits for the others.
    """
    return (
        f"dynamic_batching {{ preferred_batch_size: [ {preferred} ] "
        f"max_queue_delay_microseconds: {int(delay * 1e6)} }}\n"
    )


class Server:
    """`with Server(folder, [Model("wine")]) as server:` - live inside, gone afterwards.

    folder: an empty folder for the repository and the log. Skips the test (or fails it, see
    tests.parts.missing) where no Triton is installed.
    arguments: more flags for tritonserver.
    """

    def __init__(
        self,
        folder: Path,
        models: Iterable[Model] = (Model("wine"),),
        arguments: Iterable[str] = (),
    ) -> None:
        if not STUB.exists():
            missing(f"no Triton in {VENV.name}; tests/sources/triton/install.sh puts it there")
        self.log = folder / "tritonserver.log"
        self.http, self.grpc, self.metrics = _free_ports(3)
        self.url = f"127.0.0.1:{self.http}"
        self._repository = folder / "models"
        self._repository.mkdir(parents=True)
        self._models = tuple(models)
        for model in self._models:
            model.write(self._repository)
        self._arguments = tuple(arguments)
        self._shared_memory = f"exporter_test_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
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

    def start(self, deadline: float = 60, crashes: int = 2) -> None:
        """Start it and wait until it is live, with all its models loaded as far as they load.

        crashes: how often it may die meanwhile: 2.51's Python backend does now and then where
        many models load at once on a busy machine (boost::interprocess::lock_exception).
        """
        command = [
            str(BINARY),
            f"--model-repository={self._repository}",
            f"--backend-directory={VENV / 'tritonserver' / 'backends'}",
            f"--cache-directory={VENV / 'tritonserver' / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--metrics-address=127.0.0.1",
            f"--http-port={self.http}",
            f"--grpc-port={self.grpc}",
            f"--metrics-port={self.metrics}",
            "--http-thread-count=4",
            "--allow-gpu-metrics=false",
            "--exit-on-error=false",
            "--exit-timeout-secs=5",
            "--model-control-mode=explicit",
            *(f"--load-model={model.name}" for model in self._models),
            *self._arguments,
        ]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            "PATH": f"{VENV / 'bin'}:{os.environ.get('PATH', '')}",
        }
        with self.log.open("ab") as log:
            # A session of its own: its helpers (one process a model) end with it, by group.
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + deadline
        while not (self.live() and self._shows_metrics()):
            if self._process.poll() is not None and crashes:
                return self.start(deadline, crashes - 1)
            if self._process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"tritonserver did not come up:\n{tail}")
            time.sleep(0.05)
        return None

    def live(self) -> bool:
        """Whether it answers that it is live."""
        try:
            self.request("GET", "/v2/health/live")
        except OSError:  # refused, reset, or an answer other than 200 (HTTPError is an OSError)
            return False
        return True

    def _shows_metrics(self) -> bool:
        """Whether its port for metrics, which it opens last, is open."""
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.metrics)) == 0

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel's out-of-memory killer does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order if it still runs, by force if it will not."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it still accepts connections and answers none."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        end = time.monotonic() + 10
        while not self._stands_still(self._process.pid):  # a thread may still be answering
            assert time.monotonic() < end, "it does not stop"
            time.sleep(0.005)

    @staticmethod
    def _stands_still(pid: int) -> bool:
        """Whether every thread is stopped (state T in the kernel's file)."""
        states = (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat"))
        return all(text.rpartition(")")[2].split()[0] == "T" for text in states)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # were it paused, it could not end
            with contextlib.suppress(subprocess.TimeoutExpired):  # by force, below
                process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # all of the group is gone: as wanted
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # noqa: S108 - left behind by a killed server
            region.unlink(missing_ok=True)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask it something over HTTP; the parsed JSON, None where the answer is empty.

        Raises urllib.error.HTTPError for an answer other than 200, OSError without an answer.
        """
        request = urllib.request.Request(
            f"http://{self.url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - http only, see above
            content = response.read()
        return json.loads(content) if content else None

    def statistics(self, model: str) -> dict[str, Any]:
        """The server's own statistics of a model, raw."""
        reply = self.request("GET", f"/v2/models/{model}/stats")
        statistics: dict[str, Any] = reply["model_stats"][0]
        return statistics

    def await_counts(self, model: str, requests: int, executions: int) -> None:
        """Wait until it has counted so many since it loaded the model.

        It answers a request first and counts it, then its execution, a moment later.
        """

        def counted() -> bool:
            raw = self.statistics(model)
            stages = raw["inference_stats"]
            ended = stages["success"]["count"] + stages["fail"]["count"]
            return bool(ended >= requests and raw["execution_count"] >= executions)

        until(counted, f"{requests} requests and {executions} executions of {model}")

    def load(self, model: str) -> None:
        """Load a model of the repository, again if it is loaded and its files have changed."""
        self.request("POST", f"/v2/repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """Ask it to unload a model and wait until it is gone."""
        self.request("POST", f"/v2/repository/models/{model}/unload", {})

        def gone() -> bool:
            try:
                self.request("GET", f"/v2/models/{model}/stats")
            except urllib.error.HTTPError:
                return True
            return False

        until(gone, f"{model} unloaded", seconds=20)

    def change(self, model: str) -> None:
        """Touch a model's files, so that `load` loads it anew."""
        code = self._repository / model / "1" / "model.py"
        code.write_text(code.read_text() + f"\n# {uuid.uuid4()}\n")

    def families(self) -> set[str]:
        """The names of the families on its own metrics port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as page:
            return set(re.findall(r"^# TYPE (\S+)", page.read().decode(), re.MULTILINE))

    def counters(self, model: str) -> dict[str, float]:
        """What Triton's own metrics port counts for a model, summed over all but the name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as page:
            text = page.read().decode()
        sums: dict[str, float] = {}
        for line in text.splitlines():
            if (match := _SAMPLE.match(line)) and dict(_LABEL.findall(match[2])).get(
                "model"
            ) == model:
                sums[match[1]] = sums.get(match[1], 0) + float(match[3])
        return sums


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]
