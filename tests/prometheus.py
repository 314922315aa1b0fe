"""A real Prometheus, and promtool, from Debian's package."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts import missing
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query: Prometheus' result vector."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode(
            {"query": expression}
        )
        with urllib.request.urlopen(url, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success"
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def scalar(self, expression: str) -> float | None:
        """The value of a query that gives one series; None while it gives none."""
        result = self.query(expression)
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/-/ready"
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:  # not listening, or not ready, yet
            return False


@contextlib.contextmanager
def scraping(
    folder: Path,
    target_port: int,
    interval: str = "1s",
    *,
    job: str = "",
    rules: Path | None = None,
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes one address, until the block ends.

    job: more settings of the scrape, as YAML between braces. rules: a folder of rule files, which
    it evaluates as often as it scrapes.
    """
    binary = shutil.which("prometheus") or missing("no prometheus (Debian package prometheus)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "prometheus.yml"
    settings.write_text(
        f"global: {{scrape_interval: {interval}, scrape_timeout: {interval},"
        f" evaluation_interval: {interval}}}\n"
        f"rule_files: [{f'{rules}/*.yml' if rules else ''}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: inference, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]"
        f"{job and ', '}{job}}}\n"
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={settings}",
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


def promtool_check(page: str) -> str:
    """What `promtool check metrics` finds in a page; empty is good."""
    binary = shutil.which("promtool") or missing("no promtool (Debian package prometheus)")
    done = subprocess.run(
        [binary, "check", "metrics"],
        input=page,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr
