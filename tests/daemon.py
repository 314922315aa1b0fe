"""Runs the daemon as a process, scrapes it over HTTP, and stops it by a signal."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from tests import exporter_process
from tests.exporter_process import ExporterProcess
from tests.waiting import until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass(eq=False)
class Daemon:
    """A running daemon. log: the file of its standard error. tls: of requests to it, if any."""

    process: subprocess.Popen[bytes] | ExporterProcess
    log: Path
    port: int = 0
    tls: ssl.SSLContext | None = None
    pages: list[str] = field(default_factory=list)

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Sends one request over a new connection; returns status, headers and the raw body."""
        connection = (
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            if self.tls is None
            else http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.tls)
        )
        try:
            connection.request(method, path, headers=dict(headers or {}))
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def samples(self) -> Samples:
        """Scrapes the page; returns its samples by name and labels."""
        status, _, body = self.get("/metrics")
        assert status == 200
        return parse(body.decode())

    def value(self, name: str, /, **labels: str) -> float | None:
        """Scrapes the page; returns the sample that has these labels, as `find` does.

        Parses the lines of that name only: conditions call it many times a second.
        """
        status, _, body = self.get("/metrics")
        assert status == 200
        page = body.decode()
        series = [line.rpartition(" ")[0] for line in page.splitlines() if line[0] != "#"]
        assert len(series) == len(set(series)), "duplicate sample"
        return find(parse(lines_of(name, page)), name, **labels)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def until_logged(self, text: str) -> None:
        """Waits until the log contains the text: a thread of the daemon writes it."""
        until(lambda: text in self.log_text(), f"{text!r} in the log")

    def resident_bytes(self) -> int:
        """Returns the resident set size, from /proc/PID/statm."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Returns user and system CPU time, from /proc/PID/stat."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def lines_of(name: str, text: str) -> str:
    """Returns the samples of a page that `parse` gives this name, and the TYPE of their family.

    The parser appends `_total` to the samples of a counter that lack it.
    """
    stem = re.escape(name.removesuffix("_total"))
    return "".join(re.findall(rf"^(?:# TYPE )?{stem}(?:_total)?[{{ ].*\n", text, re.MULTILINE))


def parse(text: str) -> Samples:
    """Parses a page in text format; fails for a duplicate sample."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"duplicate sample: {key}"
            samples[key] = sample.value
    return samples


def find(samples: Samples, name: str, /, **labels: str) -> float | None:
    """Returns the only sample of the name that has these labels; None without one."""
    required = set(labels.items())
    values = [v for (n, pairs), v in samples.items() if n == name and required <= pairs]
    assert len(values) <= 1, f"{name}{labels} matches {len(values)} samples"
    return values[0] if values else None


# Short intervals for tests. Sources that tests make hang have a short timeout; the others a longer
# one, so that a busy machine causes no failure.
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


# For tests in which no GPU and no engine hangs: a busy machine causes no failure of theirs either.
PATIENT = (
    *QUICK,
    *(
        f"--{name}.{time}"
        for name in ("gpu", "containers")
        for time in ("timeout=4s", "max-age=3s")
    ),
)


def off(*sources: str) -> tuple[str, ...]:
    """Returns flags that turn these sources off."""
    return tuple(f"--{source}.enabled=off" for source in sources)


@contextlib.contextmanager
def running(
    folder: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    development_mode: bool = True,
    new_interpreter: bool = False,
) -> Iterator[Daemon]:
    """Runs the daemon until the block ends; fails unless it then exits with 0 and no traceback.

    development_mode: Python's (-X dev), with asyncio's debug mode, which doubles the CPU time.
    new_interpreter: for a test of its memory, imports or limits. Otherwise the daemon is a fork of
    a process that has imported all modules: it starts in a tenth of the CPU time.
    """
    environment = {**os.environ, **(environment or {})}
    log = folder / "daemon.log"
    with log.open("wb") as stream:
        start = _start_interpreter if new_interpreter else exporter_process.start
        process = start(
            *flags,
            stdout=stream,
            stderr=stream,
            environment=environment,
            development_mode=development_mode,
        )
    daemon = Daemon(process, log)
    try:
        daemon.port = until(lambda: _port(daemon), "the daemon to listen", seconds=60)
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


def _start_interpreter(
    *flags: str,
    stdout: IO[bytes],
    stderr: IO[bytes],
    environment: Mapping[str, str],
    development_mode: bool,
) -> subprocess.Popen[bytes]:
    options = ("-X", "dev", "-W", "error") if development_mode else ("-W", "error")
    return subprocess.Popen(
        [sys.executable, *options, "-m", "exporter", *flags],
        env=environment,
        stdout=stdout,
        stderr=stderr,
    )


def _port(daemon: Daemon) -> int:
    assert daemon.process.poll() is None, daemon.log_text()
    match = re.search(r"listening on 127\.0\.0\.1 port (\d+)", daemon.log_text())
    return int(match[1]) if match else 0
