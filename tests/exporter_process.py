"""Starts `python -m exporter` by a fork of a process that has imported it already.

For tests of what the exporter does, not of its imports, its memory or its interpreter: those start
`sys.executable` themselves.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
# Since Python 3.13 a forked worker clears atexit's functions, which would be the only references:
# a Popen without one warns about its running process.
_started: list[subprocess.Popen[bytes]] = []


class ExporterProcess:
    """A running exporter, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal; None while the process runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired after `timeout` seconds."""
        code = self._read(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["exporter"], timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends the signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _read(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._status, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            line = os.read(self._status, 64)
            os.close(self._status)
            assert line, "the fork server has ended"
            self.returncode = os.waitstatus_to_exitcode(int(line))
        return self.returncode


def start(
    *arguments: str,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    environment: Mapping[str, str] | None = None,
    development_mode: bool = True,
) -> ExporterProcess:
    """Starts the exporter with these arguments; warnings are errors.

    environment: replaces `os.environ`, but not for the interpreter, which runs already. Each
        LD_LIBRARY_PATH has a fork server: the dynamic linker reads it at the start.
    """
    environment = os.environ if environment is None else environment
    requests = fork_server(development_mode, environment.get("LD_LIBRARY_PATH"))
    return send(requests, {"arguments": arguments}, stdout, stderr, environment)


def send(
    requests: socket.socket,
    request: Mapping[str, object],
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    environment: Mapping[str, str],
) -> ExporterProcess:
    """Asks a fork server (tests/fork_server.py) for a process in this folder."""
    reader, writer = os.pipe()
    outputs = [
        stream if isinstance(stream, int) else stream.fileno() for stream in (stdout, stderr)
    ]
    body = {**request, "environment": dict(environment), "folder": str(Path.cwd())}
    try:
        socket.send_fds(requests, [json.dumps(body).encode()], [*outputs, writer])
    finally:
        os.close(writer)
    pid = b""
    while not pid.endswith(b"\n"):
        part = os.read(reader, 1)
        assert part, "the fork server has ended"
        pid += part
    return ExporterProcess(int(pid), reader)


def run(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60,
    development_mode: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs a command of the exporter to its end; returns its exit code and output."""
    command = ["exporter", *arguments]

    def start_(stdout: IO[bytes], stderr: IO[bytes]) -> ExporterProcess:
        return start(
            *arguments,
            stdout=stdout,
            stderr=stderr,
            environment=environment,
            development_mode=development_mode,
        )

    return completed(command, start_, timeout)


def completed(
    command: list[str],
    start_process: Callable[[IO[bytes], IO[bytes]], ExporterProcess],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Returns the exit code and output of a process that is started with these two streams."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start_process(stdout, stderr)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess(command, code, *texts)


@functools.cache
def fork_server(development_mode: bool, library_path: str | None) -> socket.socket:
    """Returns the connection of a fork server, started by the first call.

    It ends with the process of pytest that started it, and serves the forks of that process, too.
    library_path: its LD_LIBRARY_PATH.
    """
    options = ("-X", "dev", "-W", "error") if development_mode else ("-W", "error")
    return start_server(library_path, *options, "-m", "tests.fork_server")


def start_server(library_path: str | None, *arguments: str) -> socket.socket:
    """Starts Python with these arguments and the number of its connection; returns our end."""
    # Message boundaries keep requests apart.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    environment = {name: text for name, text in os.environ.items() if name != "LD_LIBRARY_PATH"}
    if library_path is not None:
        environment["LD_LIBRARY_PATH"] = library_path
    process = subprocess.Popen(
        [sys.executable, *arguments, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()
    _started.append(process)

    def stop() -> None:
        ours.close()
        process.wait(timeout=10)

    atexit.register(stop)
    return ours
