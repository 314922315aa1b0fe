"""Listening addresses: several, Unix sockets, sockets passed by systemd."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import socket
import stat
import threading
from pathlib import Path

import pytest

from exporter.app import App
from exporter.config import load
from exporter.registry import SOURCES
from exporter.web import listener, listening_sockets
from exporter.web.listening_sockets import ListeningSockets
from tests import clean_interpreter, exporter_process
from tests.clean_interpreter import DAEMON
from tests.daemon import QUICK, off, running
from tests.waiting import until, until_async

SOURCE_NAMES = [entry.name for entry in SOURCES]
OTHERS = off("gpu", "containers", "triton", "joins", "host")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


def status(path: Path) -> int:
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().status
    finally:
        connection.close()


def startup_error(*flags: str) -> str:
    """Returns the single line on stderr of a daemon that fails to start (exit code 2)."""
    done = exporter_process.run(*OTHERS, *flags)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("hangs", [False, True])
def test_no_socket_stays_of_a_start_that_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """As by SIGTERM between the first address and the second, whose call still runs."""
    opened, release = threading.Event(), threading.Event()
    sockets: list[socket.socket] = []

    def listen(address: str, mode: int) -> ListeningSockets:
        listening = listening_sockets.listen(address, mode)
        sockets.extend(listening.sockets)
        if address.endswith("second"):
            opened.set()
            release.wait(10)
        return listening

    monkeypatch.setattr(listener, "listen", listen)
    paths = [tmp_path / "first", tmp_path / "second"]
    flags = {
        **{f"{source}.enabled": ["off"] for source in SOURCE_NAMES},
        "web.listen_address": [f"unix:{path}" for path in paths],
        "control.socket": [""],
    }

    async def scenario() -> None:
        app = App(load(None, {}, flags))
        starting = asyncio.create_task(app.start())
        assert await asyncio.to_thread(opened.wait, 10)
        assert all(path.exists() for path in paths)
        starting.cancel()
        await asyncio.wait((starting,))
        if hangs:
            await app.close()
            assert sockets[0].fileno() == -1
        release.set()
        await app.close()
        await until_async(lambda: [sock.fileno() for sock in sockets] == [-1, -1], "closed")
        await until_async(lambda: not any(path.exists() for path in paths), "removed")

    asyncio.run(scenario())


def test_a_unix_socket_beside_a_port(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    flags = (f"--web.listen-address=unix:{path}", "--web.unix-socket-mode=0600")
    with running(tmp_path, *QUICK, *OTHERS, *flags) as daemon:
        assert status(path) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert daemon.get("/-/healthy")[0] == 200
        daemon.until_logged(f"listening on unix:{path}")
        line = startup_error(*flags)
        assert f"web.listen_address: unix:{path}: address already in use" in line
        assert status(path) == 200, "the failed daemon has not removed it"
    assert not path.exists(), "removed at the end"


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with running(tmp_path, *QUICK, *OTHERS, f"--web.listen-address=unix:{path}"):
        assert status(path) == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_file_that_is_not_a_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    assert "exists and is not a socket" in startup_error(f"--web.listen-address=unix:{path}")
    assert path.read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(path)
    assert f"unix:{link}: is a symbolic link" in startup_error(f"--web.listen-address=unix:{link}")
    assert link.is_symlink()
    assert "is not unix: and an absolute path of at most 107 characters" in startup_error(
        "--web.listen-address=unix:page.sock"
    )
    assert "is not unix: and an absolute path of at most 107 characters" in startup_error(
        f"--web.listen-address=unix:/{'a' * 120}"
    )
    absent = startup_error(f"--web.listen-address=unix:{tmp_path}/no/page.sock")
    assert "no such file or directory" in absent


def test_a_reload_adds_and_removes_addresses(tmp_path: Path) -> None:
    path, file = tmp_path / "page.sock", tmp_path / "settings.yml"
    file.write_text("web: {listen_address: ['127.0.0.1:0']}\nitself: {interval: 200ms}\n")
    with running(tmp_path, f"--config.file={file}", *OTHERS) as daemon:
        text = file.read_text()
        file.write_text(text.replace("]", f", 'unix:{path}']"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged(f"listening on unix:{path}")
        assert status(path) == 200
        file.write_text(text.replace("]", f", 'unix:{path}', 'unix:/proc/no.sock']"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until_logged("settings refused")
        assert status(path) == 200, "unchanged"
        file.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: not path.exists(), "the socket file removed")
        assert daemon.get("/-/healthy")[0] == 200, "the port stays open"


# Runs the daemon with a socket as file descriptor 3, as systemd does.
ACTIVATED = """
import os, runpy, socket, sys
s = socket.create_server(("127.0.0.1", 0)) if sys.argv[1] == "tcp" else socket.socket()
sys.stderr.write(f"listening on 127.0.0.1 port {s.getsockname()[1]} (by systemd)\\n")
sys.stderr.flush()
descriptor = s.detach()
if descriptor != 3:
    os.dup2(descriptor, 3)
    os.close(descriptor)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
del sys.argv[1]
runpy.run_module("exporter", run_name="__main__", alter_sys=True)
"""


def test_a_socket_from_systemd(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = clean_interpreter.start(
            ACTIVATED,
            *("tcp", *OTHERS, "--web.systemd-socket"),
            stdout=stream,
            stderr=stream,
            after=DAEMON,
        )
    try:
        until(lambda: "msg" in log.read_text(), "the daemon", 30)
        port = int(log.read_text().split("port ")[1].split()[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/-/healthy")
        assert connection.getresponse().status == 200
        connection.close()
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0, log.read_text()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "systemd has passed no socket"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "systemd has passed no socket"),
    ],
)
def test_error_without_a_socket_from_systemd(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    assert expected in startup_error("--web.systemd-socket")


def test_error_if_the_socket_does_not_listen() -> None:
    done = clean_interpreter.run(
        ACTIVATED, *("idle", *OTHERS, "--web.systemd-socket"), after=DAEMON
    )
    assert done.returncode == 2, done.stderr
    assert "web.systemd_socket: needs ListenStream= and Accept=no" in done.stderr
