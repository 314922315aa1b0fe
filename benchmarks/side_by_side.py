"""What exporters that run already cost, side by side, in one run.

    make bench-beside ours=PID=http://127.0.0.1:10400/metrics theirs=PID=http://127.0.0.1:8080/metrics
    python -m benchmarks.side_by_side [--scrapes 30] [--interval 5] NAME=PID=URL NAME=PID ...

It needs nothing of theirs: CPU time is the kernel's clock of the process (nanoseconds, every thread
of it, also those that have ended), memory its RSS, and a scrape is what Prometheus would do: a GET
over a connection that is kept, gzip allowed, timed from the request's first byte to the reply's
last. All are scraped in turn, one at a time. NAME=PID without an address is only looked at: an
engine, say, whose own work is the question. What a process has its children do is not counted.
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

_LONGEST = 1 << 28
_PATIENCE = 30.0


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far. Raises OSError where there is none.

    The clock of another process: clock_getcpuclockid(3), as Linux encodes it.
    """
    return time.clock_gettime(~pid << 3 | 2)


def resident_bytes(pid: int) -> int:
    """RSS. Raises OSError."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Connection:
    """One kept connection to an exporter; made anew where the other side has closed it."""

    def __init__(self, url: str) -> None:
        self._parts: SplitResult = urlsplit(url)
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise ValueError(f"no address of an exporter: {url!r}")
        self._socket: socket.socket | None = None
        target = self._parts.path or "/"
        if self._parts.query:
            target += f"?{self._parts.query}"
        self._request = (
            f"GET {target} HTTP/1.1\r\nHost: {self._parts.netloc}\r\nUser-Agent: beside\r\n"
            "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: gzip\r\n\r\n"
        ).encode()

    def scrape(self) -> tuple[float, bytes, bytes]:
        """Seconds it took, the reply's head, its body as it came. Raises OSError, ValueError."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side has closed it meanwhile
                return self._ask(self._socket)
            self.close()
        self._socket = self._connected()
        return self._ask(self._socket)

    def page(self) -> bytes:
        """What a scrape gives, unpacked. Raises OSError, ValueError."""
        _, head, body = self.scrape()
        return gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        secure = self._parts.scheme == "https"
        host, port = str(self._parts.hostname), self._parts.port or (443 if secure else 80)
        plain = socket.create_connection((host, port), _PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return (
            ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            if secure
            else plain
        )

    def _ask(self, connection: socket.socket) -> tuple[float, bytes, bytes]:
        started = time.perf_counter()
        connection.sendall(self._request)
        got = bytearray()
        end, begin = -1, 0
        while end < 0 or len(got) < end:
            more = connection.recv(1 << 20)
            if not more:
                raise ConnectionResetError("closed within a reply")
            got += more
            if len(got) > _LONGEST:
                raise ValueError("a page without end")
            if end < 0 and (head := got.find(b"\r\n\r\n")) >= 0:
                begin = head + 4
                end = _end(got, begin)
        took = time.perf_counter() - started
        head_bytes = bytes(got[:begin])
        if not head_bytes.split(b"\r\n", 1)[0].split()[1:2] == [b"200"]:
            raise ValueError(head_bytes.split(b"\r\n", 1)[0].decode(errors="replace"))
        body = bytes(got[begin:])
        return took, head_bytes, _joined(body) if _chunked(head_bytes) else body


def _chunked(head: bytes) -> bool:
    return b"transfer-encoding: chunked" in head.lower()


def _end(got: bytearray, begin: int) -> int:
    """How long the reply is in all; -1 while that cannot be said. Raises ValueError."""
    head = bytes(got[:begin]).lower()
    if _chunked(head):
        return len(got) if got.endswith(b"\r\n0\r\n\r\n") else -1
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return begin + int(value)
    raise ValueError("a reply that does not say how long it is")


def _joined(body: bytes) -> bytes:
    """The chunks as one."""
    whole, at = bytearray(), 0
    while True:
        line = body.index(b"\r\n", at)
        size = int(body[at:line].split(b";")[0], 16)
        if size == 0:
            return bytes(whole)
        whole += body[line + 2 : line + 2 + size]
        at = line + 2 + size + 2


@dataclass(slots=True)
class Peer:
    """A process that is looked at, and scraped where it has an address."""

    name: str
    pid: int
    connection: Connection | None
    times: list[float] = field(default_factory=list)
    samples: int = 0
    size: int = 0
    sent: int = 0
    began: float = 0.0
    cpu: float = 0.0
    resident: int = 0
    trouble: str = ""

    def begin(self) -> None:
        """One scrape that does not count, then the clock."""
        self._scrape()
        self.times.clear()
        self.cpu, self.began = cpu_seconds(self.pid), time.monotonic()

    def turn(self) -> None:
        """Scrape it once, and look at its memory."""
        self._scrape()
        self.resident = max(self.resident, resident_bytes(self.pid))

    def finish(self) -> None:
        """From here on `cpu` is its share of a core."""
        self.cpu = (cpu_seconds(self.pid) - self.cpu) / (time.monotonic() - self.began)

    def _scrape(self) -> None:
        if self.connection is None:
            return
        took, head, body = self.connection.scrape()
        self.times.append(took)
        page = gzip.decompress(body) if b"content-encoding: gzip" in head.lower() else body
        self.size, self.sent = len(page), len(body)
        self.samples = sum(1 for line in page.splitlines() if line and line[0] != 0x23)

    def row(self) -> str:
        """A line of the table."""
        if self.trouble:
            return f"| {self.name} | {self.trouble} | | | | | | |"
        cost = f"| {self.name} | {self.cpu * 100:.2f} | {self.resident / 1e6:.0f} |"
        if not self.times:
            return f"{cost} | | | | |"
        middle, worst = statistics.median(self.times) * 1e3, max(self.times) * 1e3
        return f"{cost} {middle:.2f} | {worst:.2f} | {self.samples} | {self.size} | {self.sent} |"


HEAD = (
    "| exporter | CPU % of a core | RSS MB | scrape p50 ms | worst ms | samples | page bytes"
    " | bytes sent |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def peer(text: str) -> Peer:
    """NAME=PID=URL, or NAME=PID. Raises ValueError."""
    name, _, rest = text.partition("=")
    pid, _, url = rest.partition("=")
    if not name or not pid.isdecimal():
        raise ValueError(f"not NAME=PID=URL: {text!r}")
    return Peer(name, int(pid), Connection(url) if url else None)


def compare(peers: Sequence[Peer], scrapes: int, interval: float) -> None:
    """Scrape them all so many times, the first one of each round being another each time."""
    for one in peers:
        _bear(one, one.begin)
    for turn in range(scrapes):
        ends = time.monotonic() + interval
        first = turn % len(peers)
        for one in (*peers[first:], *peers[:first]):
            _bear(one, one.turn)
        time.sleep(max(0.0, ends - time.monotonic()))
    for one in peers:
        _bear(one, one.finish)
        if one.connection is not None:
            one.connection.close()


def _bear(one: Peer, call: Callable[[], None]) -> None:
    """What goes wrong with one is said in its line."""
    if one.trouble:
        return
    try:
        call()
    except (OSError, ValueError) as error:
        one.trouble = f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.side_by_side", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("peers", nargs="+", metavar="NAME=PID[=URL]")
    parser.add_argument("--scrapes", type=int, default=30)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two scrapes")
    options = parser.parse_args()
    try:
        peers = [peer(text) for text in options.peers]
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{options.scrapes} scrapes each, one every {options.interval:g} s,"
        f" load average at the start {os.getloadavg()[0]:.1f}\n"
    )
    compare(peers, options.scrapes, options.interval)
    print(HEAD)
    for one in peers:
        print(one.row())
    sys.exit(int(any(one.trouble for one in peers)))


if __name__ == "__main__":
    main()
