"""Runs the wine service with everything around it on one machine: `make example`.

Starts, as plain processes: the service with its model, inference-exporter with the service's page
merged and the reference of its predictions, and a real Prometheus with the project's rules and
those of the model. Sends a fixed plan of requests, and compares every status with the counters on
the exporter's page. Then sends traffic until Ctrl-C; after ten minutes the wines are of a hotter
climate.

    python examples/wine-quality/run.py [--seconds N] [--offset N] [--requests N]
                                        [--scrape-interval N]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = ROOT / "deploy" / "demo"
VENV = ROOT / ".cache" / "wine-quality"
sys.path.append(str(DEMO))
from demo import Demo, in_use  # noqa: E402

METRIC = "wine_quality_prediction"
BUCKETS = "0:10:0.5"


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports: each service's default port plus an offset."""

    exporter: int = 10400
    prometheus: int = 9090
    service: int = 8080

    @classmethod
    def with_offset(cls, offset: int) -> Ports:
        return cls(*(port + offset for port in astuple(cls())))


def reference(folder: Path) -> Path:
    """Makes the reference from the model's predictions for wines it was not trained with."""
    file = folder / "wine-reference.json"
    command = (sys.executable, "-m", "exporter", "reference", "wine")
    source = ("--csv", VENV / "model" / "predictions.csv", "--column", "quality")
    with file.open("wb") as output:
        subprocess.run([*command, *source, "--buckets", BUCKETS], stdout=output, check=True)
    with (folder / "wine-rules.yml").open("wb") as output:
        subprocess.run([*command, "--rules", "--metric", METRIC], stdout=output, check=True)
    return file


def prometheus_settings(folder: Path, ports: Ports, scrape_interval: int) -> Path:
    """Writes Prometheus' settings; an evaluation every three scrapes. scrape_interval: seconds."""
    rules = [*sorted((ROOT / "prometheus" / "rules").glob("*.yml")), folder / "wine-rules.yml"]
    file = folder / "prometheus.yml"
    file.write_text(
        f"global: {{scrape_interval: {scrape_interval}s,"
        f" evaluation_interval: {3 * scrape_interval}s}}\n"
        f"rule_files: [{', '.join(map(str, rules))}]\n"
        "scrape_configs:\n"
        "  - {job_name: inference, static_configs: [{targets: ['localhost:"
        f"{ports.exporter}']}}]}}\n"
    )
    return file


@contextlib.contextmanager
def running(ports: Ports, scrape_interval: int) -> Iterator[Demo]:
    """Starts all processes, waits until they respond, and stops them at the end of the block."""
    binary = shutil.which("prometheus")
    missing = [] if binary else ["prometheus (Debian package prometheus)"]
    if not (VENV / "model" / "model.joblib").exists():
        missing.append("the model (examples/wine-quality/install.sh trains it)")
    missing += [f"port {port}, which is in use" for port in astuple(ports) if in_use(port)]
    if missing:
        raise SystemExit("cannot start the example: missing " + " and ".join(missing))
    with tempfile.TemporaryDirectory(prefix="wine-quality-") as name:
        folder = Path(name)
        example = Demo(folder)
        try:
            example.start(
                "service",
                (
                    *(VENV / "bin" / "uvicorn", "service:app", "--app-dir", HERE),
                    *("--host", "127.0.0.1", "--port", ports.service, "--log-level", "warning"),
                ),
                MODEL=str(VENV / "model" / "model.joblib"),
            )
            example.start(
                "exporter",
                (
                    *(sys.executable, "-m", "exporter"),
                    f"--web.listen-address=127.0.0.1:{ports.exporter}",
                    f"--upstream.url=wine=http://localhost:{ports.service}/metrics",
                    "--upstream.interval=2s",
                    f"--predictions.reference=wine={reference(folder)}",
                ),
            )
            example.start(
                "prometheus",
                (
                    binary,
                    f"--config.file={prometheus_settings(folder, ports, scrape_interval)}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{ports.prometheus}",
                ),
            )
            # The only path whose requests are not counted: the plan's are all. The first import of
            # scikit-learn reads 100 MB.
            example.wait("service", ports.service, "/metrics", seconds=120)
            example.wait("exporter", ports.exporter, "/-/ready")
            example.wait("prometheus", ports.prometheus, "/-/ready")
            yield example
        finally:
            example.stop()


def accept(ports: Ports, requests: int) -> None:
    """Sends the plan; prints the ledger beside the counters. Raises SystemExit if they differ."""
    command = (
        *(sys.executable, DEMO / "load.py", "--service=wine", f"--requests={requests}"),
        f"--page=http://localhost:{ports.exporter}/metrics",
        *("--match=upstream=wine", f"localhost:{ports.service}"),
    )
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("the ledger of the plan and the exporter's page differ")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--offset", type=int, default=0, help="added to every port")
    parser.add_argument("--requests", type=int, default=1300, help="requests of the plan")
    parser.add_argument("--scrape-interval", type=int, default=5, help="seconds; default: 5")
    options = parser.parse_args()
    seconds, ports = options.seconds, Ports.with_offset(options.offset)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    # The exporter runs from this checkout.
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        with running(ports, options.scrape_interval) as example:
            print(f"A fixed plan of {options.requests} requests, sent and counted:\n", flush=True)
            accept(ports, options.requests)
            example.start(
                "load",
                (
                    *(sys.executable, DEMO / "load.py", "--service=wine", "--warmer-after=600"),
                    f"localhost:{ports.service}",
                ),
            )
            print(
                f"""
The example runs, {time.monotonic() - started:.0f} s after its start:

  http://localhost:{ports.service}/docs         the wine service; its page is /metrics
  http://localhost:{ports.exporter}/metrics   the exporter: the service's page, and the reference
  http://localhost:{ports.prometheus}/graph      Prometheus; try the queries
      model:prediction_drift:psi
      model:predictions_bucket:increase
      upstream:http_requests:rate5m
  http://localhost:{ports.prometheus}/alerts     PredictionDrift fires when the wines have changed

For Grafana, add a Prometheus data source with http://localhost:{ports.prometheus} and import
grafana/quality.json; without one, draw it:
  {sys.executable} -m tools.sheet --prometheus http://localhost:{ports.prometheus} quality
Logs are in {example.folder}. Ctrl-C stops the example.
""",
                flush=True,
            )
            while time.monotonic() < started + seconds:
                example.check()
                time.sleep(1)
    except KeyboardInterrupt:
        print("\nstopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
