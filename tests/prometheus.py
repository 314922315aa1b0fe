"""Runs a real Prometheus, of Debian's package or of `make prometheus3`, and promtool."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parts import missing
from tests.paths import ROOT
from tests.ports import free_port
from tests.waiting import until

# The binary of Debian's package (2.42), and of `make prometheus3` (3.16), which may be absent.
DEBIANS = "prometheus"
PROMETHEUS_3 = str(ROOT / ".cache" / "bin" / "prometheus3" / "prometheus")
PROMTOOLS = {"2.42": "promtool", "3.16": str(Path(PROMETHEUS_3).with_name("promtool"))}
"""By version; that of 3.16 may be absent."""

# For promtool: garbage collections, each after the heap has grown to four times its size instead of
# twice, take a sixth of its CPU time otherwise, to save 100 MB.
RARE_COLLECTIONS = {**os.environ, "GOGC": "300"}


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def api(self, path: str, **parameters: str) -> Any:
        """Returns the data of /api/v1/`path`."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?" + urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(url, timeout=60) as reply:
            response = json.load(reply)
        assert response["status"] == "success"
        return response["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Runs an instant query; returns the result vector."""
        result: list[dict[str, Any]] = self.api("query", query=expression)["result"]
        return result

    def scalar(self, expression: str) -> float | None:
        """Returns the value of a query with one series; None without a series."""
        result = self.query(expression)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def answer(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """Waits for a result vector, and returns it.

        After a scrape that a busy machine lost, the series have no values until the next one.
        """
        return until(lambda: self.query(expression), expression, seconds, every=0.1)

    def refused_scrapes(self) -> list[dict[str, Any]]:
        """Returns the targets with failed scrapes in the last minute, except for their timeout.

        The interval and the timeout are 1 s.
        """
        refused = "up == 0 and on (job, instance) scrape_duration_seconds < 1"
        return self.query(f"count_over_time(({refused})[1m:1s])")

    def ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/-/ready"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:  # not listening or not ready yet
            return False


@contextlib.contextmanager
def scraping(
    folder: Path,
    target_port: int,
    interval: str = "1s",
    *,
    job: str = "",
    rules: Path | None = None,
    evaluation_interval: str = "",
    binary: str = DEBIANS,
) -> Iterator[Prometheus]:
    """Runs a Prometheus that scrapes one port, until the block ends.

    interval: of scrapes. job: further settings of the scrape job, in YAML flow style. rules: a
    folder of rule files. evaluation_interval: of the rules; empty: that of the scrapes.
    """
    settings = (
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval},"
        f" evaluation_interval: {evaluation_interval or interval}}}\n"
        f"rule_files: [{f'{rules}/*.yml' if rules else ''}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: inference, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]"
        f"{job and ', '}{job}}}\n"
    )
    with running(folder, settings, binary) as server:
        yield server


@contextlib.contextmanager
def running(folder: Path, settings: str, binary: str = DEBIANS) -> Iterator[Prometheus]:
    """Runs a Prometheus with these settings (prometheus.yml), until the block ends."""
    program = shutil.which(binary) or missing(f"no {binary}")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(settings)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    server = Prometheus(port)
    try:
        until(server.ready, "Prometheus to be ready", seconds=60)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def promtool_of(version: str) -> str:
    """Returns the path of a promtool; skips the test without it."""
    program = shutil.which(PROMTOOLS[version])
    if program is None and version == "3.16":
        pytest.skip("no promtool 3.16 (make prometheus3)")
    return program or missing("no promtool (Debian package prometheus)")


def promtools() -> list[str]:
    """Returns the paths of Debian's promtool and, if it is there, of 3.16."""
    newer = shutil.which(PROMTOOLS["3.16"])
    return [promtool_of("2.42"), *([newer] if newer else [])]


def promtool_check(page: str) -> str:
    """Returns the outputs of `promtool check metrics` for a page; empty if all take it."""
    return "".join(output for _, output in _check_metrics(page))


def promtool_parse_errors(page: str) -> list[str]:
    """Returns the outputs of those that cannot parse a page; remarks on names do not matter."""
    return [output for status, output in _check_metrics(page) if status not in (0, 3)]


def _check_metrics(page: str) -> Iterator[tuple[int, str]]:
    """Yields exit status (3: remarks) and output of each promtool."""
    for promtool in promtools():
        done = subprocess.run(
            [promtool, "check", "metrics"],
            input=page,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        yield done.returncode, done.stdout + done.stderr
