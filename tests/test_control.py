"""Commands over the Unix socket: who may, what is understood, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
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
from tests.parts import missing


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[ControlServer, list[float | None]]]:
    given: list[float | None] = []

    async def release(seconds: float | None) -> CommandReply:
        given.append(seconds)
        return CommandReply(ok=True, message="done")

    server = ControlServer({"release": release})
    await server.start(str(path), {})
    try:
        yield server, given
    finally:
        await server.close()


async def say(path: Path, data: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(data)
    writer.write_eof()
    line = await reader.readline()
    writer.close()
    answer: dict[str, object] = json.loads(line)
    return answer


def test_a_command_and_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "socket"

    async def main() -> None:
        async with serving(path) as (_, given):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for seconds in (600.0, None):
                answer = await asyncio.to_thread(
                    send_command, str(path), {}, Command("release", seconds)
                )
                assert answer == CommandReply(ok=True, message="done")
            assert given == [600.0, None]
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
def test_nonsense_is_answered_and_does_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "socket"

    async def main() -> None:
        async with serving(path) as (_, given):
            answer = await say(path, data)
            assert answer["ok"] is False
            assert given == []
            assert (await say(path, b'{"command": "release"}\n'))["ok"] is True

    asyncio.run(main())


def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE", 0.05)
    path = tmp_path / "socket"

    async def main() -> None:
        async with serving(path):
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


def test_another_user_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel names who is at the other end; the mode of the socket aside."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own let nobody else in
        Path(folder).chmod(0o755)
        _refuse_another_user(Path(folder) / "socket", monkeypatch)


def _refuse_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    async def main() -> None:
        async with serving(path) as (_, given):
            if os.geteuid() == 0:
                answer = await asyncio.to_thread(_as_nobody, path)
            else:
                monkeypatch.setattr(os, "geteuid", lambda: 12345)
                answer = await say(path, b'{"command": "release"}\n')
            assert answer == {
                "ok": False,
                "message": "only the daemon's own user and root may command it",
            }
            assert given == []

    asyncio.run(main())


def _as_nobody(path: Path) -> dict[str, object]:
    """Really another user: a child that gives its rights up, once the modes would let it in."""
    python = shutil.which("python3", path="/usr/bin:/bin")  # ours may lie where it may not read
    if python is None:
        missing("a python3 in /usr/bin, to run as another user")
    path.chmod(0o666)
    # It may be refused before it has said anything: the answer is what counts.
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
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def main() -> None:
        async with serving(path) as (first, _):
            assert first.path == path
            caplog.set_level("INFO")
            async with serving(path) as (second, _):
                assert second.path is None
                assert "another daemon listens there" in caplog.text
            assert (await say(path, b'{"command": "release"}\n'))["ok"] is True

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/nowhere/at/all/socket", "/dev/null/socket", "/" + "x" * 200])
def test_what_cannot_be_made_is_a_line_in_the_log(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def main() -> None:
        async with serving(Path(path)) as (server, _):
            assert server.path is None
        assert path in caplog.text

    asyncio.run(main())


def test_a_file_in_its_place_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")

    async def main() -> None:
        async with serving(path) as (server, _):
            assert server.path is None

    asyncio.run(main())
    assert path.read_text() == "precious"


def test_places() -> None:
    environment = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    run = Path("/run/inference-exporter/control.sock")
    assert socket_paths("auto", environment) == [
        run,
        Path("/run/user/1000/inference-exporter/control.sock"),
    ]
    assert socket_paths("auto", {}) == [run]
    assert socket_paths("/a/b", environment) == [Path("/a/b")]
    assert socket_paths("", environment) == []


def test_no_daemon_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match=r"cannot be reached: .*No such file"):
        send_command(str(tmp_path / "socket"), {}, Command("release"))
    with pytest.raises(CommandRefused, match="it has no socket"):
        send_command("", {}, Command("release"))
