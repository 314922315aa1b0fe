"""Listening sockets: TCP, Unix, and those systemd hands over. Opening them blocks."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from exporter.errors import ConfigError
from exporter.web.settings import UNIX, split_address

# Connections the kernel keeps for us until they are taken.
BACKLOG = 512
# Where systemd's first socket is: sd_listen_fds(3).
FIRST_FROM_SYSTEMD = 3
SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Listening:
    """The open sockets of one address. owned: device and inode of the Unix socket we made."""

    address: str
    sockets: tuple[socket.socket, ...]
    owned: tuple[int, int] | None = None

    @property
    def bound(self) -> list[str]:
        """Where each socket really is, in words."""
        return [_shown(each) for each in self.sockets]

    def close(self) -> None:
        """Close them; a Unix socket of ours goes from its folder."""
        for each in self.sockets:
            each.close()
        if self.owned is not None:
            path = Path(self.address.removeprefix(UNIX))
            with contextlib.suppress(OSError):  # somebody has removed it, or its folder
                found = path.lstat()
                if (found.st_dev, found.st_ino) == self.owned:
                    path.unlink()


def listen(address: str, mode: int) -> Listening:
    """Open the sockets of an address. mode: permissions of a Unix socket. Raises ConfigError."""
    try:
        if address.startswith(UNIX):
            return _listen_unix(address, mode)
        host, port = split_address(address)
        return Listening(address, _listen_tcp(host, port))
    except (OSError, UnicodeError) as error:  # the latter: a host name that cannot be one
        # A host name that is not known has no strerror of the system's.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ConfigError("settings", "web.listen_address", f"{address}: {reason}") from None


def from_systemd(environment: Mapping[str, str], process: int) -> Listening:
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
    return Listening(SYSTEMD, tuple(sockets))


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


def _listen_unix(address: str, mode: int) -> Listening:
    path = Path(address.removeprefix(UNIX))
    _remove_stale(path)
    each = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        each.bind(str(path))
        # Before it listens nobody can connect, whatever the mask gave.
        path.chmod(mode)
        found = path.lstat()
        each.listen(BACKLOG)
    except OSError:
        each.close()
        raise
    each.setblocking(False)
    return Listening(address, (each,), (found.st_dev, found.st_ino))


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on is what a killed daemon leaves. Raises OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(0, "is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(0, "address already in use")


def _shown(each: socket.socket) -> str:
    name = each.getsockname()
    if each.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"{name[0]} port {name[1]}"
