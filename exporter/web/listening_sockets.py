"""Listening sockets: TCP, Unix, and those systemd hands over. Opening them blocks."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ConfigError
from exporter.unix_socket import FileId, listen_unix, remove_socket_file
from exporter.web.settings import UNIX, split_address

# Connections the kernel keeps for us until they are taken.
BACKLOG = 512
# Where systemd's first socket is: sd_listen_fds(3).
FIRST_FROM_SYSTEMD = 3
SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class ListeningSockets:
    """The open sockets of one address. owned: device and inode of the Unix socket we made."""

    address: str
    sockets: tuple[socket.socket, ...]
    owned: FileId | None = None

    @property
    def bound(self) -> list[str]:
        """Where each socket really is, in words."""
        return [_shown(each) for each in self.sockets]

    def close(self) -> None:
        """Close them; a Unix socket of ours goes from its folder."""
        for each in self.sockets:
            each.close()
        if self.owned is not None:
            remove_socket_file(Path(self.address.removeprefix(UNIX)), self.owned)


def listen(address: str, mode: int) -> ListeningSockets:
    """Open the sockets of an address. mode: permissions of a Unix socket. Raises ConfigError."""
    try:
        if address.startswith(UNIX):
            return _listen_unix(address, mode)
        host, port = split_address(address)
        return ListeningSockets(address, _listen_tcp(host, port))
    except (OSError, UnicodeError) as error:  # the latter: a host name that cannot be one
        # A host name that is not known has no strerror of the system's.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError("settings", "web.listen_address", f"{address}: {reason}") from None


def from_systemd(environment: Mapping[str, str], process: int) -> ListeningSockets:
    """The sockets systemd passed to this process. Raises ConfigError where there are none."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(process) or not count.isdecimal() or count == "0":
        raise ConfigError(
            "settings",
            "web.systemd_socket",
            "systemd has passed no socket: is there a .socket unit?",
        )
    sockets = []
    for descriptor in range(FIRST_FROM_SYSTEMD, FIRST_FROM_SYSTEMD + int(count)):
        try:
            each = socket.socket(fileno=descriptor)
            listening = each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ConfigError(
                "settings", "web.systemd_socket", f"descriptor {descriptor}: {error.strerror}"
            ) from None
        if not listening or each.type != socket.SOCK_STREAM:
            raise ConfigError(
                "settings", "web.systemd_socket", "needs ListenStream= and Accept=no in the unit"
            )
        os.set_inheritable(descriptor, False)
        each.setblocking(False)
        sockets.append(each)
    return ListeningSockets(SYSTEMD, tuple(sockets))


def _listen_tcp(host: str | None, port: int) -> tuple[socket.socket, ...]:
    found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    sockets: list[socket.socket] = []
    error: OSError | None = None
    with contextlib.ExitStack() as opened:
        for family, _, _, _, where in dict.fromkeys(found):
            try:
                each = socket.socket(family, socket.SOCK_STREAM)
            except OSError as absent:  # a kernel without IPv6
                error = absent
                continue
            opened.callback(each.close)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                each.bind((where[0], port or where[1], *where[2:]))
            except OSError as refused:
                if host is None and family == socket.AF_INET6:  # IPv6 is switched off
                    error = refused
                    continue
                raise
            each.listen(BACKLOG)
            each.setblocking(False)
            port = port or each.getsockname()[1]  # the same for every family
            sockets.append(each)
        if not sockets:
            raise error or OSError("no address")
        opened.pop_all()
    return tuple(sockets)


def _listen_unix(address: str, mode: int) -> ListeningSockets:
    listening, file_id = listen_unix(Path(address.removeprefix(UNIX)), mode, BACKLOG)
    listening.setblocking(False)
    return ListeningSockets(address, (listening,), file_id)


def _shown(each: socket.socket) -> str:
    name = each.getsockname()
    if each.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"{name[0]} port {name[1]}"
