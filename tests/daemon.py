"""The daemon as a user runs it: a process of its own, asked over HTTP, stopped by signals."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(eq=False)
class Daemon:
    """A running daemon. log: the file its standard error goes to."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0
    pages: list[str] = field(default_factory=list)

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Ask once over a connection of its own: (status, headers, body as it came)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def samples(self) -> Samples:
        """The page now, by name and labels."""
        status, _, body = self.get("/metrics")
        assert status == 200
        return parse(body.decode())

    def value(self, name: str, /, **labels: str) -> float | None:
        """One sample of the page now: the one that carries these labels among its own."""
        return find(self.samples(), name, **labels)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def resident_bytes(self) -> int:
        """RSS, from the kernel."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """User and system time so far, from the kernel."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parse(text: str) -> Samples:
    """A page in text format as samples by name and labels. Fails on a sample that stands twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice on one page: {key}"
            found[key] = sample.value
    return found


def find(samples: Samples, name: str, /, **labels: str) -> float | None:
    """The one sample of the name with these labels among its own; None if there is none."""
    wanted = set(labels.items())
    values = [v for (n, have), v in samples.items() if n == name and wanted <= have]
    assert len(values) <= 1, f"{name}{labels} is not one sample but {len(values)}"
    return values[0] if values else None


# Quick settings for tests; a source that a test does not want on is off. What a test lets hang has
# a short deadline, what never hangs a longer one, so that a busy machine is no failure.
QUICK = (
    "--web.listen-address=127.0.0.1:0",
    *(
        f"--{source}.{setting}"
        for source in ("gpu", "containers", "triton")
        for setting in ("interval=200ms", "timeout=500ms", "max-age=1500ms")
    ),
    *(
        f"--{source}.{setting}"
        for source in ("joins", "host", "itself")
        for setting in ("interval=200ms", "timeout=3s")
    ),
)


def off(*sources: str) -> tuple[str, ...]:
    """Flags that turn these sources off."""
    return tuple(f"--{source}.enabled=off" for source in sources)


@contextlib.contextmanager
def running(
    folder: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """Run the daemon until the block ends; it must then have stopped cleanly."""
    log = folder / "daemon.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-m", "exporter", *flags],
            env={**os.environ, **(environment or {})},
            stderr=stream,
            stdout=stream,
        )
    daemon = Daemon(process, log)
    try:
        daemon.port = until(lambda: _port(daemon), "the daemon to listen", seconds=30)
        yield daemon
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    assert process.returncode == 0, daemon.log_text()
    assert "Traceback" not in daemon.log_text(), daemon.log_text()


def _port(daemon: Daemon) -> int:
    assert daemon.process.poll() is None, daemon.log_text()
    match = re.search(r"listening on 127\.0\.0\.1 port (\d+)", daemon.log_text())
    return int(match[1]) if match else 0
