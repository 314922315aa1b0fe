"""Runs the whole stack on one machine, without GPUs, containers or a registry: `make demo`.

Starts, as plain processes: a real Triton with two small models, a load generator, a simulated
language model server (llm.py), inference-exporter with simulated GPUs, and a real Prometheus with
the project's rules. The processes are in simulated containers (containers.py) and use the GPUs; the
kernel's values are this host's. Every panel of every dashboard has data. Prints the URLs, and stops
all processes on Ctrl-C.

    python deploy/demo/demo.py [--seconds N]      N: stop after N seconds
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TRITON = ROOT / ".venv-triton" / "tritonserver"
RULES = ROOT / "prometheus"
# A healthy card, one with memory errors and throttling, one with MIG devices, one with a fan.
GPUS = "h100,h100-sick,h100-mig,rtx2080s"
# Of the container of Triton: the first two.
TRITON_GPUS = 2
PROCESSES = ("tritonserver@0", "tritonserver@1", "simulated-llm@2", "simulated-llm@3")


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports: each service's default port plus an offset."""

    exporter: int = 10400
    prometheus: int = 9090
    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002
    gpu_config: int = 8003
    llm: int = 8004
    traces: int = 8005

    @classmethod
    def with_offset(cls, offset: int) -> Ports:
        return cls(*(port + offset for port in astuple(cls())))


def responds(port: int, path: str) -> bool:
    """Returns whether GET of the path returns 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def in_use(port: int) -> bool:
    """Returns whether a process listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Demo:
    """The processes, in start order. folder: their logs and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, command: Sequence[object], **environment: str) -> int:
        """Starts a process with its output in a log file of the folder; returns its PID."""
        with (self.folder / f"{name}.log").open("wb") as log:
            # A new session each: Ctrl-C reaches only this process, which stops them in order.
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._processes.append((name, process))
        return process.pid

    def wait(self, name: str, port: int, path: str, seconds: float = 60) -> None:
        """Waits for a 200 response. Raises SystemExit with the end of the log on timeout."""
        end = time.monotonic() + seconds
        while not responds(port, path):
            self.check()
            if time.monotonic() > end:
                raise SystemExit(f"{name} does not respond on port {port}\n{self.log(name)}")
            time.sleep(0.2)

    def check(self) -> None:
        """Raises SystemExit if a process has exited."""
        for name, process in self._processes:
            if process.poll() is not None:
                raise SystemExit(f"{name} exited unexpectedly\n{self.log(name)}")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Terminates all processes in reverse order; kills the rest after ten seconds."""
        for _, process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):  # its whole session has exited
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 10
        for _, process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):  # killed below
                process.wait(max(0.0, end - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start_triton(demo: Demo, ports: Ports) -> int:
    # A copy: Triton writes next to the models, and the Python backend caches bytecode there.
    models = demo.folder / "models"
    shutil.copytree(HERE / "models", models)
    with (models / "classify" / "config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    return demo.start(
        "triton",
        (
            TRITON / "bin" / "tritonserver",
            f"--model-repository={models}",
            f"--backend-directory={TRITON / 'backends'}",
            f"--cache-directory={TRITON / 'caches'}",
            "--cache-config=local,size=1048576",
            f"--backend-config=python,shm-region-prefix-name=demo_{os.getpid()}_",
            *("--http-address=127.0.0.1", f"--http-port={ports.http}"),
            *("--grpc-address=127.0.0.1", f"--grpc-port={ports.grpc}"),
            *("--metrics-address=127.0.0.1", f"--metrics-port={ports.metrics}"),
            "--allow-gpu-metrics=false",
            *(
                part
                for setting in (
                    *("mode=opentelemetry", "level=TIMESTAMPS", "rate=1", "count=-1"),
                    f"opentelemetry,url=http://127.0.0.1:{ports.traces}/v1/traces",
                    "opentelemetry,bsp_schedule_delay=500",
                    "opentelemetry,resource=service.name=triton",
                )
                for part in ("--trace-config", setting)
            ),
            "--exit-timeout-secs=3",
        ),
        LD_LIBRARY_PATH=str(sysconfig.get_config_var("LIBDIR")),
        PATH=f"{ROOT / '.venv-triton' / 'bin'}:{os.environ.get('PATH', '')}",
    )


def start_exporter(demo: Demo, ports: Ports, pids: dict[str, int]) -> None:
    """Starts the simulated containers of these processes, and the exporter."""
    labels = {
        # The exporter asks the proxy, which says that the models are on GPUs.
        "triton": {"triton.port": ports.gpu_config, "triton.metrics-port": ports.metrics},
        "llm": {"model-server.port": ports.llm},
    }
    processes = []
    for name, pid in pids.items():
        pairs = (f"inference-exporter.{key}={port}" for key, port in labels.get(name, {}).items())
        processes.append(",".join((name, str(pid), *pairs)))
    demo.start("containers", (sys.executable, HERE / "containers.py", demo.folder, *processes))
    demo.start(
        "exporter",
        (
            *(sys.executable, "-m", "exporter", f"--simulate.gpus={GPUS}"),
            *(f"--simulate.processes={process}" for process in PROCESSES),
            f"--web.listen-address=127.0.0.1:{ports.exporter}",
            f"--traces.listen-address=127.0.0.1:{ports.traces}",
            f"--path.procfs={demo.folder / 'proc'}",
            f"--path.sysfs={demo.folder / 'sys'}",
        ),
        DOCKER_HOST=f"unix://{demo.folder / 'docker.sock'}",
    )


def start_prometheus(demo: Demo, ports: Ports, binary: str, interval: str) -> None:
    rules = sorted(RULES.glob("*.rules.yml")) + sorted(RULES.glob("rules/*.yml"))
    config = demo.folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {interval}, evaluation_interval: {interval}}}\n"
        f"rule_files: [{', '.join(str(rule) for rule in rules)}]\n"
        "scrape_configs:\n"
        "  - {job_name: inference, static_configs: [{targets: ['localhost:"
        f"{ports.exporter}']}}]}}\n"
    )
    demo.start(
        "prometheus",
        (
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={demo.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{ports.prometheus}",
        ),
    )


@contextlib.contextmanager
def running(ports: Ports, interval: str) -> Iterator[Demo]:
    """Starts all processes, waits until they respond, and stops them at the end of the block.

    interval: of Prometheus' scrapes.
    """
    prometheus = shutil.which("prometheus")
    missing = [] if prometheus else ["prometheus (Debian package prometheus)"]
    if not TRITON.exists():
        missing.append("Triton (tests/sources/triton/install.sh installs it into .venv-triton)")
    missing += [f"port {port}, which is in use" for port in astuple(ports) if in_use(port)]
    if missing or prometheus is None:
        raise SystemExit("cannot start the demo: missing " + " and ".join(missing))
    with tempfile.TemporaryDirectory(prefix="inference-demo-") as folder:
        demo = Demo(Path(folder))
        try:
            python = sys.executable
            pids = {
                "triton": start_triton(demo, ports),
                "gateway": demo.start(
                    "gateway",
                    (python, HERE / "gpu_config.py", ports.gpu_config, ports.http, TRITON_GPUS),
                ),
                "llm": demo.start("llm", (python, HERE / "llm.py", ports.llm)),
                "load": demo.start("load", (python, HERE / "load.py", f"localhost:{ports.http}")),
            }
            start_exporter(demo, ports, pids)
            start_prometheus(demo, ports, prometheus, interval)
            demo.wait("triton", ports.http, "/v2/health/ready")
            demo.wait("exporter", ports.exporter, "/-/ready")
            demo.wait("prometheus", ports.prometheus, "/-/ready")
            yield demo
        finally:
            demo.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--offset", type=int, default=0, help="added to every port")
    parser.add_argument("--scrape-interval", default="10s", help="of Prometheus; default: 10s")
    options = parser.parse_args()
    seconds, ports = options.seconds, Ports.with_offset(options.offset)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        with running(ports, options.scrape_interval) as demo:
            print(
                f"""
The demo runs, {time.monotonic() - started:.0f} s after its start:

  http://localhost:{ports.exporter}/          state of every source
  http://localhost:{ports.exporter}/metrics   metrics
  http://localhost:{ports.prometheus}/graph      Prometheus; try the queries
      gpu_power_watts
      sum by (model, stage) (triton_latency_seconds)
      triton_success_ratio
  http://localhost:{ports.prometheus}/alerts     the project's alerts

For Grafana, add a Prometheus data source with http://localhost:{ports.prometheus} and import
the files of grafana/. Logs are in {demo.folder}. Ctrl-C stops the demo.
""",
                flush=True,
            )
            while time.monotonic() < started + seconds:
                demo.check()
                time.sleep(1)
    except KeyboardInterrupt:
        print("\nstopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
