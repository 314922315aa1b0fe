"""Commands over the Unix socket: permissions, invalid requests, and the socket file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter import control
from exporter.control import (
    Command,
    CommandRefused,
    CommandReply,
    ControlServer,
    send_command,
    socket_paths,
)
from exporter.unix_socket import FileId, listen_unix
from tests.parts import missing


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[ControlServer, list[float | None]]]:
    calls: list[float | None] = []

    async def release(seconds: float | None) -> CommandReply:
        calls.append(seconds)
        return CommandReply(ok=True, message="done")

    server = ControlServer({"release": release})
    await server.start(str(path), {})
    try:
        yield server, calls
    finally:
        await server.close()


async def request(path: Path, data: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    line = await reader.readline()
    writer.close()
    reply: dict[str, object] = json.loads(line)
    return reply


def test_no_socket_stays_of_a_start_that_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SIGTERM within the milliseconds of the call."""
    opened, release = threading.Event(), threading.Event()
    sockets: list[socket.socket] = []

    def listen(path: Path) -> tuple[socket.socket, FileId]:
        listening, file_id = original(path)
        sockets.append(listening)
        opened.set()
        release.wait(10)
        return listening, file_id

    original = control._listen
    monkeypatch.setattr(control, "_listen", listen)
    path = tmp_path / "control.sock"

    async def scenario() -> None:
        server = ControlServer({})
        starting = asyncio.create_task(server.start(str(path), {}))
        assert await asyncio.to_thread(opened.wait, 10)
        assert path.exists()
        starting.cancel()
        await asyncio.wait((starting,))
        release.set()
        await server.close()

    asyncio.run(scenario())
    assert [listening.fileno() for listening in sockets] == [-1]
    assert not path.exists()


def test_a_command_and_its_reply(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "socket"

    async def main() -> None:
        async with serving(path) as (_, calls):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for seconds in (600.0, None):
                reply = await asyncio.to_thread(
                    send_command, str(path), {}, Command("release", seconds)
                )
                assert reply == CommandReply(ok=True, message="done")
            assert calls == [600.0, None]
        assert not path.exists()

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"release\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"command": 5}\n',
        b'{"command": "release", "seconds": "x"}\n',
        b'{"command": "release", "seconds": -1}\n',
        b'{"command": "release", "seconds": 1e308}\n',
        b'{"command": "release", "more": 1}\n',
        b'{"command": "reboot"}\n',
        b"x" * 100_000,
    ],
)
def test_an_invalid_request_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        async with serving(path) as (_, calls):
            reply = await request(path, data)
            assert reply["ok"] is False
            assert calls == []
            assert (await request(path, b'{"command": "release"}\n'))["ok"] is True

    asyncio.run(main())


def test_a_silent_client_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_TIMEOUT", 0.05)
    path = tmp_path / "socket"

    async def main() -> None:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


def test_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By SO_PEERCRED, with a socket mode that permits the connection."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's directories are private
        Path(folder).chmod(0o755)
        _refuse_another_user(Path(folder) / "socket", monkeypatch)


def _refuse_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    async def main() -> None:
        async with serving(path) as (_, calls):
            if os.geteuid() == 0:
                reply = await asyncio.to_thread(_request_as_another_user, path)
            else:
                monkeypatch.setattr(os, "geteuid", lambda: 12345)
                reply = await request(path, b'{"command": "release"}\n')
            assert reply == {
                "ok": False,
                "message": "permission denied: only the daemon's user and root may do this",
            }
            assert calls == []

    asyncio.run(main())


def _request_as_another_user(path: Path) -> dict[str, object]:
    """Sends a request from a child process of user 65534, after opening the socket's mode."""
    python = shutil.which(
        "python3", path="/usr/bin:/bin"
    )  # this one's directory may be inaccessible to it
    if python is None:
        missing("a python3 in /usr/bin, to run as another user")
    path.chmod(0o666)
    # The request may be refused before it is sent: only the reply matters.
    program = """
import contextlib, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
with contextlib.suppress(BrokenPipeError):
    s.sendall(b'{"command": "release"}\\n')
print(s.makefile().readline())
"""
    done = subprocess.run(
        [python, "-c", program, str(path)],
        user=65534,
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        timeout=30,
    )
    reply: dict[str, object] = json.loads(done.stdout)
    return reply


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def main() -> None:
        async with serving(path) as (first, _):
            assert first.path == path
            caplog.set_level("INFO")
            async with serving(path) as (second, _):
                assert second.path is None
                assert "another daemon listens on it" in caplog.text
            assert (await request(path, b'{"command": "release"}\n'))["ok"] is True

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/nowhere/at/all/socket", "/dev/null/socket", "/" + "x" * 200])
def test_a_socket_that_cannot_be_created_is_logged(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        async with serving(Path(path)) as (server, _):
            assert server.path is None
        assert path in caplog.text

    asyncio.run(main())


def test_a_regular_file_at_the_path_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")

    async def main() -> None:
        async with serving(path) as (server, _):
            assert server.path is None

    asyncio.run(main())
    assert path.read_text() == "precious"


@pytest.mark.parametrize("target", ["a stale socket", "a socket in use", "a file", "nothing"])
def test_a_symbolic_link_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    """Neither the link nor its target is touched."""
    path, real = tmp_path / "link", tmp_path / "target"
    path.symlink_to(real)
    with socket.socket(socket.AF_UNIX) as other:
        if target == "a file":
            real.write_text("precious")
        elif target != "nothing":
            other.bind(str(real))
            if target == "a socket in use":
                other.listen()
        before = real.lstat() if target != "nothing" else None
        caplog.set_level("INFO")

        async def main() -> None:
            async with serving(path) as (server, _):
                assert server.path is None

        asyncio.run(main())
        (line,) = caplog.messages
        assert line == (
            f"control.socket: not available: {path}: is a symbolic link: remove it, or set the path"
            " of the socket itself"
        )
        assert path.readlink() == real
        after = real.lstat() if target != "nothing" else None
        assert (after and (after.st_ino, after.st_mode, after.st_mtime_ns)) == (
            before and (before.st_ino, before.st_mode, before.st_mtime_ns)
        )
        assert real.exists() == (target != "nothing")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o177, 0o777])
def test_the_mode_of_the_socket_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "socket"
    before = os.umask(umask)
    try:
        listening, _ = listen_unix(path, 0o660, 1)
    finally:
        os.umask(before)
    listening.close()
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660


def test_candidate_paths() -> None:
    environment = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    default = Path("/run/inference-exporter/control.sock")
    assert socket_paths("auto", environment) == [
        default,
        Path("/run/user/1000/inference-exporter/control.sock"),
    ]
    assert socket_paths("auto", {}) == [default]
    assert socket_paths("/a/b", environment) == [Path("/a/b")]
    assert socket_paths("", environment) == []


def test_without_a_daemon_the_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match=r"cannot be reached: .*No such file"):
        send_command(str(tmp_path / "socket"), {}, Command("release"))
    with pytest.raises(CommandRefused, match=r"control\.socket is not set"):
        send_command("", {}, Command("release"))
