"""Opens listening sockets: TCP, Unix, and sockets passed by systemd. All functions block."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ConfigError
from exporter.settings import split_address
from exporter.unix_socket import FileId, listen_unix, remove_socket_file
from exporter.web.settings import UNIX

# Connections the kernel queues until they are accepted.
BACKLOG = 512
# File descriptor of the first socket that systemd passes: sd_listen_fds(3).
SD_LISTEN_FDS_START = 3
_MAX_COUNT_LENGTH = 9
# Key of the sockets passed by systemd, in place of an address.
SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class ListeningSockets:
    """The open sockets of one address. file_id: of the Unix socket's file, None for others."""

    address: str
    sockets: tuple[socket.socket, ...]
    file_id: FileId | None = None

    @property
    def bound(self) -> list[str]:
        """The address each socket is bound to, for the log."""
        return [_describe(sock) for sock in self.sockets]

    def close(self) -> None:
        """Closes the sockets and removes the file of a Unix socket that `listen` created."""
        for sock in self.sockets:
            sock.close()
        if self.file_id is not None:
            remove_socket_file(Path(self.address.removeprefix(UNIX)), self.file_id)


def listen(address: str, mode: int) -> ListeningSockets:
    """Opens the sockets of an address. mode: permissions of a Unix socket. Raises ConfigError."""
    try:
        if address.startswith(UNIX):
            return _listen_unix(address, mode)
        host, port = split_address(address)
        return ListeningSockets(address, _listen_tcp(host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name (IDNA)
        # socket.gaierror of an unknown host has no strerror of the operating system.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError("settings", "web.listen_address", f"{address}: {reason}") from None


def from_systemd(environment: Mapping[str, str], process: int) -> ListeningSockets:
    """Returns the sockets systemd passed to this process (sd_listen_fds(3)).

    process: its PID. Raises ConfigError if systemd passed none, or a socket that does not listen.
    """
    count = environment.get("LISTEN_FDS", "")
    valid = count.isdecimal() and len(count) <= _MAX_COUNT_LENGTH and count != "0"
    if environment.get("LISTEN_PID") != str(process) or not valid:
        raise ConfigError(
            "settings",
            "web.systemd_socket",
            "systemd has passed no socket: enable and start the service's .socket unit",
        )
    sockets = []
    for descriptor in range(SD_LISTEN_FDS_START, SD_LISTEN_FDS_START + int(count)):
        try:
            sock = socket.socket(fileno=descriptor)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError(
                "settings", "web.systemd_socket", f"descriptor {descriptor}: {error.strerror}"
            ) from None
        if not listening or sock.type != socket.SOCK_STREAM:
            raise ConfigError(
                "settings", "web.systemd_socket", "needs ListenStream= and Accept=no in the unit"
            )
        os.set_inheritable(descriptor, False)
        sock.setblocking(False)
        sockets.append(sock)
    return ListeningSockets(SYSTEMD, tuple(sockets))


def _listen_tcp(host: str | None, port: int) -> tuple[socket.socket, ...]:
    resolved = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    sockets: list[socket.socket] = []
    error: OSError | None = None
    with contextlib.ExitStack() as opened:
        for family, _, _, _, address in dict.fromkeys(resolved):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as unsupported:  # a kernel without IPv6
                error = unsupported
                continue
            opened.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((address[0], port or address[1], *address[2:]))
            except OSError as refused:
                if host is None and family == socket.AF_INET6:  # IPv6 is disabled
                    error = refused
                    continue
                raise
            sock.listen(BACKLOG)
            sock.setblocking(False)
            port = port or sock.getsockname()[1]  # the same for IPv4 and IPv6
            sockets.append(sock)
        if not sockets:
            raise error or OSError("no address")
        opened.pop_all()
    return tuple(sockets)


def _listen_unix(address: str, mode: int) -> ListeningSockets:
    listening, file_id = listen_unix(Path(address.removeprefix(UNIX)), mode, BACKLOG)
    listening.setblocking(False)
    return ListeningSockets(address, (listening,), file_id)


def _describe(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"{name[0]} port {name[1]}"
