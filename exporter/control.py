"""Commands to the running daemon over a Unix socket: `release` and `resume`.

Permitted to the daemon's user and root: by the socket's mode (0600) and by the peer's credentials
(SO_PEERCRED). One line of JSON in each direction: {"command": "release", "seconds": 600} and
{"ok": true, "message": "…"}.
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
_MAX_LINE_BYTES = 1024
# Seconds to receive or send a line.
_TIMEOUT = 5.0
_CLOSE_TIMEOUT = 1.0
_MAX_CONNECTIONS = 8
_BACKLOG = 100
# Seconds until the next accept() without file descriptors or memory.
_ACCEPT_RETRY_DELAY = 1.0
# Seconds for the reply: a command may wait for calls that run in a driver.
_REPLY_TIMEOUT = 60.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ControlSettings(Section, frozen=True):
    """The socket of the commands `inference-exporter release` and `resume`."""

    socket: Annotated[
        str,
        Meta(
            description="Unix socket for commands, usable by the daemon's user and root; auto:"
            " /run/inference-exporter/control.sock, else under $XDG_RUNTIME_DIR; empty: none"
        ),
    ] = AUTOMATIC


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """A request. seconds: the duration; None: until the opposite command."""

    command: str
    seconds: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None


class CommandReply(msgspec.Struct):
    """The response. message: one line for the operator."""

    ok: bool
    message: str


class CommandRefused(ExporterError):
    """The daemon cannot be reached, or its response cannot be parsed."""


CommandHandler = Callable[[float | None], Awaitable[CommandReply]]


@runtime_checkable
class Releasable(Protocol):
    """A source that can release its driver or library while the daemon runs."""

    async def release(self, seconds: float) -> bool:
        """Releases it for a time, which may be infinite. Returns False if a hung call delays it."""

    async def resume(self) -> None:
        """Ends a release: the next poll loads it again."""


def socket_paths(setting: str, environment: Mapping[str, str]) -> list[Path]:
    """Returns the candidate paths of the socket, in order of preference."""
    if not setting:
        return []
    if setting != AUTOMATIC:
        return [Path(setting)]
    folders = ["/run", environment.get("XDG_RUNTIME_DIR", "")]
    return [Path(folder) / _NAME for folder in folders if folder]


class ControlServer:
    """Serves the socket. A socket that cannot be created is logged, and is not an error."""

    def __init__(self, handlers: Mapping[str, CommandHandler]) -> None:
        self.path: Path | None = None
        """The socket's path, while listening."""
        self._handlers = handlers
        self._worker = Worker("control")
        self._listening: socket.socket | None = None
        self._file_id: FileId = (0, 0)
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, setting: str, environment: Mapping[str, str]) -> None:
        """Listens on the first candidate path that works."""
        reasons = []
        for path in socket_paths(setting, environment):
            try:
                listening, self._file_id = await self._worker.run(
                    partial(_listen, path), discard=partial(_discard, path)
                )
            except (OSError, CommandRefused) as error:
                reasons.append(f"{path}: {getattr(error, 'strerror', None) or error}")
                continue
            listening.setblocking(False)
            self._listening = listening
            self._resume_accepting()
            self.path = path
            return
        if reasons:
            log.info("control.socket: not available: %s", "; ".join(reasons))

    async def close(self) -> None:
        """Stops listening and removes the socket file, unless another process has replaced it."""
        remove = None
        if self._listening is not None and self.path is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
            remove = partial(remove_socket_file, self.path, self._file_id)
        self._worker.close(last=remove)
        with contextlib.suppress(TimeoutError):  # the folder is on a mount that hangs
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._worker.idle()  # also of the call of a cancelled start

    def _resume_accepting(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accepts a connection. asyncio's own server logs a traceback without descriptors."""
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no file descriptor or memory; the web server logs it, too
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            loop.call_later(_ACCEPT_RETRY_DELAY, self._resume_accepting)
            return
        accepted.setblocking(False)
        serving = asyncio.create_task(self._serve(accepted), name="control connection")
        self._connections.add(serving)
        serving.add_done_callback(self._connections.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=accepted, limit=_MAX_LINE_BYTES)
        try:
            reply = await self._reply(reader, writer)
            writer.write(msgspec.json.encode(reply) + b"\n")
            async with asyncio.timeout(_TIMEOUT):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # the client has disconnected or is too slow
        finally:
            writer.close()

    async def _reply(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> CommandReply:
        if len(self._connections) > _MAX_CONNECTIONS:
            return CommandReply(ok=False, message="too many connections")
        peer = _CREDENTIALS.unpack(
            writer.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        )
        if peer[1] not in (0, os.geteuid()):
            return CommandReply(
                ok=False, message="permission denied: only the daemon's user and root may do this"
            )
        try:
            async with asyncio.timeout(_TIMEOUT):
                command = msgspec.json.decode(await reader.readline(), type=Command)
        except (msgspec.MsgspecError, ValueError) as error:  # ValueError: the line is too long
            return CommandReply(ok=False, message=f"invalid request: {error}")
        handler = self._handlers.get(command.command)
        if handler is None:
            return CommandReply(ok=False, message=f"unknown command: {command.command[:40]!r}")
        log.info("%s requested by PID %d of user %d", command.command, peer[0], peer[1])
        return await handler(command.seconds)


def send_command(setting: str, environment: Mapping[str, str], command: Command) -> CommandReply:
    """Sends a command to the running daemon; returns its reply. Blocks. Raises CommandRefused."""
    reasons = []
    for path in socket_paths(setting, environment):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_REPLY_TIMEOUT)
            try:
                connection.connect(str(path))
            except OSError as error:
                reasons.append(f"{path}: {error.strerror or error}")
                continue
            try:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # refused before the request was read: read the reply
                    connection.sendall(msgspec.json.encode(command) + b"\n")
                with connection.makefile("rb") as stream:
                    line = stream.readline(64 * _MAX_LINE_BYTES)
                return msgspec.json.decode(line, type=CommandReply)
            except (OSError, msgspec.MsgspecError) as error:
                raise CommandRefused(f"{path}: {error}") from None
    raise CommandRefused(
        "the daemon cannot be reached: " + ("; ".join(reasons) or "control.socket is not set")
    )


def _discard(path: Path, opened: tuple[socket.socket, FileId]) -> None:
    listening, file_id = opened
    listening.close()
    remove_socket_file(path, file_id)


def _listen(path: Path) -> tuple[socket.socket, FileId]:
    """Returns a listening socket of mode 0600. Raises OSError, CommandRefused."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    try:
        return listen_unix(path, 0o600, _BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandRefused("another daemon listens on it") from None
        raise
