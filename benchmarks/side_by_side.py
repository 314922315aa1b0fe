"""Compares the cost of running exporters in one run: CPU, RSS, scrape latency, page size.

    make bench-beside exporter=PID=http://127.0.0.1:10400/metrics cadvisor=PID=http://127.0.0.1:8080/metrics
    python -m benchmarks.side_by_side [--scrapes 30] [--interval 5] NAME=PID=URL NAME=PID ...

It needs no support from the exporters. CPU time is the process's kernel clock (nanoseconds, all
threads, exited threads included); memory is its RSS; a scrape is Prometheus' request: a GET over a
keep-alive connection, gzip accepted, timed from the first byte of the request to the last byte of
the response. Exporters are scraped one at a time. NAME=PID without a URL is measured but not
scraped, for example a container engine. Child processes are not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import os
import socket
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

_MAX_REPLY_BYTES = 1 << 28
_TIMEOUT = 30.0  # seconds


def cpu_seconds(pid: int) -> float:
    """Returns the CPU seconds of a process so far. Raises OSError without that process.

    Reads another process's clock: clock_getcpuclockid(3), in Linux's encoding.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(pid: int) -> int:
    """Returns the RSS of a process, from /proc/PID/statm. Raises OSError."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Connection:
    """A keep-alive connection to an exporter; reconnects after the server has closed it."""

    def __init__(self, url: str) -> None:
        self._parts: SplitResult = urlsplit(url)
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise ValueError(f"not the URL of an exporter: {url!r}")
        self._socket: socket.socket | None = None
        target = self._parts.path or "/"
        if self._parts.query:
            target += f"?{self._parts.query}"
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: {self._parts.netloc}\r\nUser-Agent: side_by_side\r\n"
            "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: gzip\r\n\r\n"
        ).encode()

    def scrape(self) -> tuple[float, bytes, bytes]:
        """Returns the latency in seconds, the reply's head and its raw body.

        Raises OSError, ValueError.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the server has closed it: reconnect
                return self._get(self._socket)
            self.close()
        self._socket = self._connect()
        return self._get(self._socket)

    def page(self) -> bytes:
        """Returns a scrape's page, uncompressed. Raises OSError, ValueError."""
        _, head, body = self.scrape()
        return gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        secure = self._parts.scheme == "https"
        host, port = str(self._parts.hostname), self._parts.port or (443 if secure else 80)
        connection = socket.create_connection((host, port), _TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (
            ssl.create_default_context().wrap_socket(connection, server_hostname=host)
            if secure
            else connection
        )

    def _get(self, connection: socket.socket) -> tuple[float, bytes, bytes]:
        started = time.perf_counter()
        connection.sendall(self._request)
        reply = bytearray()
        reply_length, body_start = -1, 0
        while reply_length < 0 or len(reply) < reply_length:
            chunk = connection.recv(1 << 20)
            if not chunk:
                raise ConnectionResetError("connection closed during the reply")
            reply += chunk
            if len(reply) > _MAX_REPLY_BYTES:
                raise ValueError(f"reply longer than {_MAX_REPLY_BYTES} bytes")
            if reply_length < 0 and (head_end := reply.find(b"\r\n\r\n")) >= 0:
                body_start = head_end + 4
                reply_length = _reply_length(reply, body_start)
        latency = time.perf_counter() - started
        head = bytes(reply[:body_start])
        if not head.split(b"\r\n", 1)[0].split()[1:2] == [b"200"]:
            raise ValueError(head.split(b"\r\n", 1)[0].decode(errors="replace"))
        body = bytes(reply[body_start:])
        return latency, head, _dechunk(body) if _chunked(head) else body


def _chunked(head: bytes) -> bool:
    return b"transfer-encoding: chunked" in head.lower()


def _reply_length(reply: bytearray, body_start: int) -> int:
    """Returns the bytes of the whole reply; -1 before the last chunk. Raises ValueError."""
    head = bytes(reply[:body_start]).lower()
    if _chunked(head):
        return len(reply) if reply.endswith(b"\r\n0\r\n\r\n") else -1
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return body_start + int(value)
    raise ValueError("reply without Content-Length and without chunks")


def _dechunk(body: bytes) -> bytes:
    """Returns the content of a chunked body."""
    content, position = bytearray(), 0
    while True:
        size_end = body.index(b"\r\n", position)
        size = int(body[position:size_end].split(b";")[0], 16)
        if size == 0:
            return bytes(content)
        content += body[size_end + 2 : size_end + 2 + size]
        position = size_end + 2 + size + 2


@dataclass(slots=True)
class MeasuredProcess:
    """A process under measurement; scraped if it has a connection.

    latencies: seconds of each scrape. cpu: CPU seconds at the start; share of a core, 0 to 1, after
    `finish`. rss: bytes, the maximum. error: the first error, which ends the measurement.
    """

    name: str
    pid: int
    connection: Connection | None
    latencies: list[float] = field(default_factory=list)
    samples: int = 0
    page_bytes: int = 0
    body_bytes: int = 0
    started: float = 0.0
    cpu: float = 0.0
    rss: int = 0
    error: str = ""

    def start(self) -> None:
        """Scrapes once for warm-up, then starts the CPU clock."""
        self._scrape()
        self.latencies.clear()
        self.cpu, self.started = cpu_seconds(self.pid), time.monotonic()

    def sample(self) -> None:
        """Scrapes once and reads the RSS."""
        self._scrape()
        self.rss = max(self.rss, resident_bytes(self.pid))

    def finish(self) -> None:
        """Sets `cpu` to the share of a core since `start`."""
        self.cpu = (cpu_seconds(self.pid) - self.cpu) / (time.monotonic() - self.started)

    def _scrape(self) -> None:
        if self.connection is None:
            return
        latency, head, body = self.connection.scrape()
        self.latencies.append(latency)
        page = gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body
        self.page_bytes, self.body_bytes = len(page), len(body)
        self.samples = sum(1 for line in page.splitlines() if line and line[0] != 0x23)

    def row(self) -> str:
        """Returns a row of the Markdown table; an error replaces the values."""
        if self.error:
            return f"| {self.name} | {self.error} | | | | | | |"
        cost = f"| {self.name} | {self.cpu * 100:.2f} | {self.rss / 1e6:.0f} |"
        if not self.latencies:
            return f"{cost} | | | | |"
        p50, worst = statistics.median(self.latencies) * 1e3, max(self.latencies) * 1e3
        size = f"{self.page_bytes} | {self.body_bytes}"
        return f"{cost} {p50:.2f} | {worst:.2f} | {self.samples} | {size} |"


TABLE_HEAD = (
    "| exporter | CPU % of a core | RSS MB | scrape p50 ms | worst ms | samples | page bytes"
    " | bytes sent |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def parse_process(text: str) -> MeasuredProcess:
    """Parses NAME=PID=URL or NAME=PID. Raises ValueError."""
    name, _, rest = text.partition("=")
    pid, _, url = rest.partition("=")
    if not name or not pid.isdecimal():
        raise ValueError(f"not NAME=PID=URL: {text!r}")
    return MeasuredProcess(name, int(pid), Connection(url) if url else None)


def compare(processes: Sequence[MeasuredProcess], scrapes: int, interval: float) -> None:
    """Scrapes all processes in rounds of `interval` seconds; each round starts with the next."""
    for process in processes:
        _record_error(process, process.start)
    for turn in range(scrapes):
        end = time.monotonic() + interval
        first = turn % len(processes)
        for process in (*processes[first:], *processes[:first]):
            _record_error(process, process.sample)
        time.sleep(max(0.0, end - time.monotonic()))
    for process in processes:
        _record_error(process, process.finish)
        if process.connection is not None:
            process.connection.close()


def _record_error(process: MeasuredProcess, call: Callable[[], None]) -> None:
    """Calls, and keeps an OSError or ValueError in the process's `error`."""
    if process.error:
        return
    try:
        call()
    except (OSError, ValueError) as error:
        process.error = f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.side_by_side", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("processes", nargs="+", metavar="NAME=PID[=URL]")
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two scrapes")
    options = parser.parse_args()
    try:
        processes = [parse_process(text) for text in options.processes]
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{options.scrapes} scrapes per exporter, every {options.interval:g} s,"
        f" load average at the start {os.getloadavg()[0]:.1f}\n"
    )
    compare(processes, options.scrapes, options.interval)
    print(TABLE_HEAD)
    for process in processes:
        print(process.row())
    sys.exit(int(any(process.error for process in processes)))


if __name__ == "__main__":
    main()
