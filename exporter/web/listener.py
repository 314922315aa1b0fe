"""Takes connections from the listening sockets, with TLS where the web configuration says so."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from functools import partial

from aiohttp import web

from exporter.errors import ConfigError
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection import Connection, ConnectionState
from exporter.web.connection_limits import ConnectionLimiter
from exporter.web.listening_sockets import SYSTEMD, ListeningSockets, from_systemd, listen
from exporter.web.request_handler import RequestDispatcher
from exporter.web.tls import allowed
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Connections taken in one turn of the loop. A request is answered within a few turns: in a storm of
# clients the rest wait in the kernel's queue rather than be told that there are too many at once.
MOST_AT_ONCE = 8
# Seconds without taking any when the process has no descriptor left for one.
PAUSE = 1.0
# Seconds a client is given to answer the end of a TLS connection.
TLS_GOODBYE = 2.0

_NOTHING_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The listening sockets and the connections taken from them. Used from the loop only."""

    def __init__(
        self,
        guard: RequestDispatcher,
        protection: WebConfigReloader,
        hall: ConnectionLimiter,
        closing: float,
    ) -> None:
        """closing: seconds that replies under way are given at the end."""
        self._server = web.Server(guard)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=closing)
        self._protection = protection
        self._hall = hall
        self._worker = Worker("sockets")
        self._listening: dict[str, ListeningSockets] = {}

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: (host, port) of each TCP socket."""
        return [
            tuple(each.getsockname()[:2])
            for listening in self._listening.values()
            for each in listening.sockets
            if each.family != socket.AF_UNIX
        ]

    async def start(self) -> None:
        """Get ready; `go_over` opens the doors."""
        await self._runner.setup()

    async def go_over(self, addresses: tuple[str, ...], mode: int, *, systemd: bool) -> None:
        """Listen on these addresses and on no other. Raises ConfigError, with all as it was."""
        wanted = (SYSTEMD,) if systemd else tuple(dict.fromkeys(addresses))
        added: list[ListeningSockets] = []
        try:
            for address in wanted:
                if address not in self._listening:
                    added.append(await self._open(address, mode))  # noqa: PERF401 - kept if a later one fails
        except ConfigError:
            for listening in added:
                await self._worker.run(listening.close)
            raise
        for address in set(self._listening) - set(wanted):
            await self._shut(address)
        loop = asyncio.get_running_loop()
        for listening in added:
            self._listening[listening.address] = listening
            for each in listening.sockets:
                loop.add_reader(each, self._take, each)
            for where in listening.bound:
                log.info("listening on %s", where)

    async def close(self) -> None:
        """Close the doors and every connection."""
        for address in list(self._listening):
            await self._shut(address)
        self._hall.close()
        await self._runner.cleanup()
        self._worker.close()

    async def _open(self, address: str, mode: int) -> ListeningSockets:
        if address == SYSTEMD:
            return await self._worker.run(partial(from_systemd, os.environ, os.getpid()))
        return await self._worker.run(partial(listen, address, mode))

    async def _shut(self, address: str) -> None:
        listening = self._listening.pop(address)
        loop = asyncio.get_running_loop()
        for each in listening.sockets:
            loop.remove_reader(each)
        await self._worker.run(listening.close)

    def _take(self, door: socket.socket) -> None:
        """Take the connections that wait at this socket."""
        for _ in range(MOST_AT_ONCE):
            try:
                connected, _peer = door.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NOTHING_LEFT:
                    raise
                self._hall.refused(f"no connection can be taken: {error.strerror}")
                self._pause(door)
                return
            connected.setblocking(False)
            if self._hall.make_room():
                self._welcome(connected)
            else:
                connected.close()

    def _pause(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(door)

        def again() -> None:
            if any(door in listening.sockets for listening in self._listening.values()):
                loop.add_reader(door, self._take, door)

        loop.call_later(PAUSE, again)

    def _welcome(self, connected: socket.socket) -> None:
        connection = Connection(self._server, self._hall, self._admit)
        arriving = asyncio.create_task(self._bring_in(connected, connection))
        self._hall.enter(connection, arriving)

        def brought_in(_: asyncio.Task[None]) -> None:
            if connection.state is ConnectionState.ARRIVING:
                self._hall.leave(connection)
            if not connection.handed_over:
                connected.close()

        arriving.add_done_callback(brought_in)

    async def _bring_in(self, connected: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if self._protection.due:
            await self._protection.look()
        context = self._protection.loaded.context
        connection.handed_over = True  # from here on asyncio closes the socket
        try:
            if context is None:
                await loop.connect_accepted_socket(lambda: connection, connected)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    connected,
                    ssl=context,
                    ssl_handshake_timeout=self._hall.limits.header,
                    ssl_shutdown_timeout=TLS_GOODBYE,
                )
        except OSError:  # ssl.SSLError, a time-out and a client that left are all of them OSErrors
            self._hall.refused("TLS handshakes failed")
        else:
            self._hall.arrived(connection)

    def _admit(self, transport: asyncio.BaseTransport) -> bool:
        tls = self._protection.loaded.configuration.tls_server_config
        if tls is None or allowed(tls, transport.get_extra_info("peercert")):
            return True
        self._hall.refused("client certificates without an allowed name")
        return False
