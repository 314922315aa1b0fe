"""Real Triton server on the CPU, with a model repository created for the test."""

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
from typing import Any

from tests.parts import missing
from tests.paths import ROOT
from tests.ports import free_ports
from tests.server_process import RunningServer, await_stopped
from tests.waiting import until

HERE = Path(__file__).parent
VENV = ROOT / ".venv-triton"
BINARY = VENV / "tritonserver" / "bin" / "tritonserver"
STUB = VENV / "tritonserver" / "backends" / "python" / "triton_python_backend_stub"

_SAMPLE = re.compile(r"(nv_\w+)\{(.*)\} (\S+)\Z")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the repository. `config` is appended to its config.pbtxt."""

    name: str
    max_batch_size: int = 8
    config: str = ""
    code: str | None = None
    """model.py for the Python backend; by default tests/sources/triton/model/model.py."""
    whole_config: str | None = None
    """Replaces all of config.pbtxt except the name."""
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
    """Returns the configuration of dynamic batching.

    preferred: requests per batch. delay: maximum seconds a request waits for others.
    """
    return (
        f"dynamic_batching {{ preferred_batch_size: [ {preferred} ] "
        f"max_queue_delay_microseconds: {int(delay * 1e6)} }}\n"
    )


class Server(RunningServer):
    """`with Server(folder, [Model("wine")]) as server:` - runs inside the block.

    folder: empty, for the repository and the log. arguments: additional flags for tritonserver.
    Skips the test (or fails it, see tests.parts.missing) if Triton is not installed.
    """

    def __init__(
        self,
        folder: Path,
        models: Iterable[Model] = (Model("wine"),),
        arguments: Iterable[str] = (),
    ) -> None:
        if not STUB.exists():
            missing(f"no Triton in {VENV.name}; tests/sources/triton/install.sh installs it")
        self.log = folder / "tritonserver.log"
        self.http, self.grpc, self.metrics = free_ports(3)
        self.url = f"127.0.0.1:{self.http}"
        self._repository = folder / "models"
        self._repository.mkdir(parents=True)
        self._models = tuple(models)
        for model in self._models:
            model.write(self._repository)
        self._arguments = tuple(arguments)
        self._shared_memory = f"exporter_test_{uuid.uuid4().hex[:12]}_"
        self._process: subprocess.Popen[bytes] | None = None

    def start_ready(self) -> None:
        self.start()

    def start(self, deadline: float = 60, crashes: int = 2) -> None:
        """Starts the server; waits until it is live and has tried to load all models.

        crashes: allowed exits meanwhile: 2.51's Python backend occasionally crashes while many
        models load at once on a busy machine (boost::interprocess::lock_exception).
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
            # In a new session, so that its helpers (one process per model) are killed as a group.
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + deadline
        while not (self.live() and self._metrics_port_open()):
            if self._process.poll() is not None and crashes:
                return self.start(deadline, crashes - 1)
            if self._process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"tritonserver did not come up:\n{tail}")
            time.sleep(0.05)
        return None

    def live(self) -> bool:
        """Returns whether the server reports that it is live."""
        try:
            self.request("GET", "/v2/health/live")
        except OSError:  # refused, reset, or a status other than 200 (HTTPError is an OSError)
            return False
        return True

    def _metrics_port_open(self) -> bool:
        """Returns whether the metrics port, which opens last, is open."""
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.metrics)) == 0

    def kill(self) -> None:
        """Sends SIGKILL, like a crash or the OOM killer."""
        self._terminate(signal.SIGKILL)

    def stop(self) -> None:
        """Sends SIGTERM, then SIGKILL if it keeps running."""
        self._terminate(signal.SIGTERM)

    def pause(self) -> None:
        """Sends SIGSTOP: the kernel still accepts connections, but no response follows."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        await_stopped(self._process.pid)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _terminate(self, signal_number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal_number)
            process.send_signal(signal.SIGCONT)  # a stopped process cannot exit
            with contextlib.suppress(subprocess.TimeoutExpired):  # SIGKILL follows below
                process.wait(10)
        with contextlib.suppress(ProcessLookupError):  # the whole group has exited
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # noqa: S108 - left by a killed server
            region.unlink(missing_ok=True)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Sends an HTTP request; returns the parsed JSON, None for an empty response.

        Raises urllib.error.HTTPError for a status other than 200, OSError without a response.
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
        """Returns the server's raw statistics of a model."""
        response = self.request("GET", f"/v2/models/{model}/stats")
        statistics: dict[str, Any] = response["model_stats"][0]
        return statistics

    def await_counts(self, model: str, requests: int, executions: int) -> None:
        """Waits until the server has counted at least these since it loaded the model.

        It responds first, and counts the request and then its execution shortly after.
        """

        def counted() -> bool:
            raw = self.statistics(model)
            stages = raw["inference_stats"]
            completed = stages["success"]["count"] + stages["fail"]["count"]
            return bool(completed >= requests and raw["execution_count"] >= executions)

        until(counted, f"{requests} requests and {executions} executions of {model}")

    def load(self, model: str) -> None:
        """Loads a model of the repository; reloads it if its files have changed."""
        self.request("POST", f"/v2/repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """Unloads a model and waits until it is unloaded."""
        self.request("POST", f"/v2/repository/models/{model}/unload", {})

        def unloaded() -> bool:
            try:
                self.request("GET", f"/v2/models/{model}/stats")
            except urllib.error.HTTPError:
                return True
            return False

        until(unloaded, f"{model} unloaded", seconds=20)

    def change(self, model: str) -> None:
        """Changes a model's file, so that `load` reloads it."""
        code = self._repository / model / "1" / "model.py"
        code.write_text(code.read_text() + f"\n# {uuid.uuid4()}\n")

    def families(self) -> set[str]:
        """Returns the family names on its own metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as page:
            return set(re.findall(r"^# TYPE (\S+)", page.read().decode(), re.MULTILINE))

    def counters(self, model: str) -> dict[str, float]:
        """Returns the values of its own metrics page for a model, summed by metric name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as page:
            text = page.read().decode()
        sums: dict[str, float] = {}
        for line in text.splitlines():
            if (match := _SAMPLE.match(line)) and dict(_LABEL.findall(match[2])).get(
                "model"
            ) == model:
                sums[match[1]] = sums.get(match[1], 0) + float(match[3])
        return sums
