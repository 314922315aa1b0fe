"""Local commands to the running daemon: `release` and `resume`, over a Unix socket.

Whoever may use it is the same user or root; the socket's mode says so (0600), and the kernel is
asked who is at the other end (SO_PEERCRED). One line of JSON in each direction:
{"command": "release", "seconds": 600} and {"ok": true, "message": "…"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import msgspec
from msgspec import Meta

from exporter.errors import ExporterError
from exporter.settings import Section
from exporter.unix_socket import FileId, listen_unix, remove_socket_file
from exporter.worker import Worker

log = logging.getLogger("exporter.control")

AUTOMATIC = "auto"
_NAME = "inference-exporter/control.sock"
# Bytes of a line, seconds for one to come or go, connections at a time.
_LONGEST_LINE, _PATIENCE, _MOST = 1024, 5.0, 8
_BACKLOG = 16
# A command may have to wait for calls under way in a driver.
_LONGEST_COMMAND = 60.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ControlSettings(Section, frozen=True):
    """Commands to the running daemon: `inference-exporter release` and `resume`."""

    socket: Annotated[
        str,
        Meta(
            description="Unix socket for commands of the same user or root; auto:"
            " /run/inference-exporter/control.sock, else below $XDG_RUNTIME_DIR; empty: none"
        ),
    ] = AUTOMATIC


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked. seconds: how long; None: until something else is asked."""

    command: str
    seconds: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None


class CommandReply(msgspec.Struct):
    """What came of it, in words for a person."""

    ok: bool
    message: str


class CommandRefused(ExporterError):
    """The daemon cannot be reached, or does not understand."""


CommandHandler = Callable[[float | None], Awaitable[CommandReply]]


@runtime_checkable
class Releasable(Protocol):
    """A source that can let go of what it reads, and take it up again."""

    async def release(self, seconds: float) -> bool:
        """Let go for a time, which may be infinite; gives whether that is done already."""

    async def resume(self) -> None:
        """Take it up again."""


def socket_paths(setting: str, environment: Mapping[str, str]) -> list[Path]:
    """Where the socket may be, the first that can be used."""
    if not setting:
        return []
    if setting != AUTOMATIC:
        return [Path(setting)]
    folders = ["/run", environment.get("XDG_RUNTIME_DIR", "")]
    return [Path(folder) / _NAME for folder in folders if folder]


class ControlServer:
    """Listens on the socket. That it cannot is a line in the log, and no more."""

    def __init__(self, handlers: Mapping[str, CommandHandler]) -> None:
        self.path: Path | None = None
        """Where it listens."""
        self._handlers = handlers
        self._worker = Worker("control")
        self._server: asyncio.Server | None = None
        self._file_id: FileId = (0, 0)
        self._open = 0

    async def start(self, setting: str, environment: Mapping[str, str]) -> None:
        """Listen at the first place that can be used."""
        reasons = []
        for path in socket_paths(setting, environment):
            try:
                listening, self._file_id = await self._worker.run(partial(_listen, path))
            except (OSError, CommandRefused) as error:
                reasons.append(f"{path}: {getattr(error, 'strerror', None) or error}")
                continue
            self._server = await asyncio.start_unix_server(
                self._serve, sock=listening, limit=_LONGEST_LINE
            )
            self.path = path
            return
        if reasons:
            log.info("no commands can be taken: %s", "; ".join(reasons))

    async def close(self) -> None:
        """Listen no more, and take the socket away if it is still ours."""
        if self._server is not None and self.path is not None:
            self._server.close()
            self._server = None
            await self._worker.run(partial(remove_socket_file, self.path, self._file_id))
        self._worker.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            answer = await self._answer(reader, writer)
            writer.write(msgspec.json.encode(answer) + b"\n")
            async with asyncio.timeout(_PATIENCE):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # whoever asked has gone
        finally:
            self._open -= 1
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> CommandReply:
        if self._open > _MOST:
            return CommandReply(ok=False, message="too many commands at a time")
        peer = _CREDENTIALS.unpack(
            writer.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        )
        if peer[1] not in (0, os.geteuid()):
            return CommandReply(
                ok=False, message="only the daemon's own user and root may command it"
            )
        try:
            async with asyncio.timeout(_PATIENCE):
                command = msgspec.json.decode(await reader.readline(), type=Command)
        except (msgspec.MsgspecError, ValueError) as error:  # ValueError: too long a line
            return CommandReply(ok=False, message=f"not understood: {error}")
        handler = self._handlers.get(command.command)
        if handler is None:
            return CommandReply(ok=False, message=f"no such command: {command.command[:40]!r}")
        log.info("%s, asked for by PID %d of user %d", command.command, peer[0], peer[1])
        return await handler(command.seconds)


def send_command(setting: str, environment: Mapping[str, str], command: Command) -> CommandReply:
    """Give a command to the running daemon, from another process. Raises Refused."""
    reasons = []
    for path in socket_paths(setting, environment):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_LONGEST_COMMAND)
            try:
                connection.connect(str(path))
            except OSError as error:
                reasons.append(f"{path}: {error.strerror or error}")
                continue
            try:
                with contextlib.suppress(BrokenPipeError):  # refused before it was read: see why
                    connection.sendall(msgspec.json.encode(command) + b"\n")
                with connection.makefile("rb") as stream:
                    line = stream.readline(64 * _LONGEST_LINE)
                return msgspec.json.decode(line, type=CommandReply)
            except (OSError, msgspec.MsgspecError) as error:
                raise CommandRefused(f"{path}: {error}") from None
    raise CommandRefused(
        "the daemon cannot be reached: " + ("; ".join(reasons) or "it has no socket")
    )


def _listen(path: Path) -> tuple[socket.socket, FileId]:
    """Returns a socket at the path for this user and root alone. Raises OSError, Refused."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    try:
        return listen_unix(path, 0o600, _BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandRefused("another daemon listens there") from None
        raise
