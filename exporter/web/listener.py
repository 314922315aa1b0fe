"""Accepts connections on the listening sockets, with TLS if the web configuration has it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from asyncio import sslproto
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from exporter.errors import ConfigError
from exporter.web.config_reload import WebConfigReloader
from exporter.web.connection import Connection, ConnectionState
from exporter.web.connection_limits import ConnectionLimiter
from exporter.web.fair_queue import client_of
from exporter.web.listening_sockets import SYSTEMD, ListeningSockets, from_systemd, listen
from exporter.web.refusals import Refusal
from exporter.web.tls import has_allowed_san
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Connections accepted in one turn of the event loop. A request takes a few turns: with very many
# clients the rest wait in the kernel's backlog rather than get 503.
MAX_ACCEPTS_PER_TURN = 8
# Seconds until the next accept() without file descriptors or memory.
ACCEPT_RETRY_DELAY = 1.0
# Accepted connections that wait for the end of another of the same client, for so many seconds.
MAX_PENDING, MAX_PENDING_TIME, PENDING_INTERVAL = 64, 0.5, 0.05
# Bytes of the buffer that asyncio allocates for a TLS connection before its handshake: as many as a
# TLS record has. With its own 256 KiB the clients of 512 connections would take 128 MiB.
TLS_BUFFER_BYTES = 16 << 10
# Seconds for a client to acknowledge the end of a TLS connection (close_notify).
TLS_SHUTDOWN_TIMEOUT = 2.0

sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The listening sockets and the connections accepted on them.

    Used from the event loop only.
    """

    def __init__(
        self,
        dispatcher: Callable[[BaseRequest], Awaitable[StreamResponse]],
        reloader: WebConfigReloader,
        limiter: ConnectionLimiter,
        close_timeout: float,
        connection: type[Connection] = Connection,
    ) -> None:
        """close_timeout: seconds for responses in progress when the server closes.

        connection: the class of its connections.
        """
        self._connection = connection
        self._server = Server(dispatcher)
        self._close_timeout = close_timeout
        self._reloader = reloader
        self._limiter = limiter
        self._worker = Worker("sockets")
        self._listening: dict[str, ListeningSockets] = {}
        # Socket, client, and time until which it may wait.
        self._pending: deque[tuple[socket.socket, str, float]] = deque()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each listening TCP socket."""
        return [
            tuple(sock.getsockname()[:2])
            for listening in self._listening.values()
            for sock in listening.sockets
            if sock.family != socket.AF_UNIX
        ]

    async def listen_on(self, addresses: tuple[str, ...], mode: int, *, systemd: bool) -> None:
        """Listens on these addresses and closes all others. mode: permissions of Unix sockets.

        Raises ConfigError; the listening sockets then stay as they were.
        """
        requested = (SYSTEMD,) if systemd else tuple(dict.fromkeys(addresses))
        added: list[ListeningSockets] = []
        try:
            await self._open_all(requested, mode, added)
        except asyncio.CancelledError:  # a signal during the start: `close` closes them
            self._listening.update((listening.address, listening) for listening in added)
            raise
        for address in set(self._listening) - set(requested):
            await self._close_address(address)
        loop = asyncio.get_running_loop()
        for listening in added:
            self._listening[listening.address] = listening
            for sock in listening.sockets:
                loop.add_reader(sock, self._accept, sock)
            for bound in listening.bound:
                log.info("listening on %s", bound)

    async def close(self) -> None:
        """Closes the listening sockets and every connection."""
        closing = list(self._listening.values())
        self._listening.clear()
        for listening in closing:
            self._stop_accepting(listening)
            for sock in listening.sockets:
                sock.close()
        # The files of Unix sockets may be on a mount that hangs.
        self._worker.close(last=partial(_close_all, closing))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._close_timeout):
                await self._worker.idle()  # also of the call of a cancelled start
        while self._pending:
            self._pending.popleft()[0].close()
        self._limiter.close()
        await asyncio.sleep(0)  # the handlers of requests that have arrived begin
        self._server.pre_shutdown()
        await self._server.shutdown(self._close_timeout)

    async def _open_all(
        self, addresses: Sequence[str], mode: int, added: list[ListeningSockets]
    ) -> None:
        """Opens addresses that are not open, and adds them; none if one fails (ConfigError)."""
        try:
            for address in addresses:
                if address not in self._listening:
                    added.append(await self._open(address, mode))  # noqa: PERF401 - closed if a later fails
        except ConfigError:
            while added:
                await self._worker.run(added[-1].close)
                added.pop()
            raise

    async def _open(self, address: str, mode: int) -> ListeningSockets:
        call = partial(listen, address, mode)
        if address == SYSTEMD:
            call = partial(from_systemd, os.environ, os.getpid())
        return await self._worker.run(call, discard=ListeningSockets.close)

    async def _close_address(self, address: str) -> None:
        listening = self._listening.pop(address)
        self._stop_accepting(listening)
        await self._worker.run(listening.close)

    @staticmethod
    def _stop_accepting(listening: ListeningSockets) -> None:
        loop = asyncio.get_running_loop()
        for sock in listening.sockets:
            loop.remove_reader(sock)

    def _accept(self, listening_socket: socket.socket) -> None:
        for _ in range(MAX_ACCEPTS_PER_TURN):
            try:
                accepted, peer = listening_socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._limiter.refusals.count(Refusal.DESCRIPTORS)
                if error.errno != errno.EMFILE or not self._limiter.close_oldest():
                    self._pause_accepting(listening_socket)
                return  # with a free descriptor, the next turn of the event loop accepts it
            accepted.setblocking(False)
            client = client_of(peer)
            if self._limiter.free_slot(client):
                self._start_connection(accepted, client)
            elif len(self._pending) < MAX_PENDING:
                if not self._pending:
                    self._limiter.loop.call_later(PENDING_INTERVAL, self._start_pending)
                until = self._limiter.now() + MAX_PENDING_TIME
                self._pending.append((accepted, client, until))
            else:
                self._limiter.refusals.count(Refusal.CONNECTIONS_BUSY)
                accepted.close()

    def _start_pending(self) -> None:
        """Starts the pending connections, after MAX_PENDING_TIME in the place of others."""
        for _ in range(len(self._pending)):
            accepted, client, until = self._pending.popleft()
            if self._limiter.free_slot(client, waited=self._limiter.now() >= until):
                self._start_connection(accepted, client)
            else:
                self._pending.append((accepted, client, until))
        if self._pending:
            self._limiter.loop.call_later(PENDING_INTERVAL, self._start_pending)

    def _pause_accepting(self, listening_socket: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening_socket)

        def resume() -> None:
            if any(listening_socket in open_.sockets for open_ in self._listening.values()):
                loop.add_reader(listening_socket, self._accept, listening_socket)

        loop.call_later(ACCEPT_RETRY_DELAY, resume)

    def _start_connection(self, accepted: socket.socket, client: str) -> None:
        connection = self._connection(self._server, client, self._limiter, self._authorize)
        opening = asyncio.create_task(self._open_connection(accepted, connection))
        self._limiter.add(connection, opening)

        def opened(_: asyncio.Task[None]) -> None:
            if connection.state is ConnectionState.OPENING:
                self._limiter.remove(connection)
            if not connection.owned_by_asyncio:
                accepted.close()

        opening.add_done_callback(opened)

    async def _open_connection(self, accepted: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        if self._reloader.due:
            await self._reloader.check()
        context = self._reloader.loaded.context
        connection.owned_by_asyncio = True  # connect_accepted_socket closes it on failure
        try:
            if context is None:
                await loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=context,
                    ssl_handshake_timeout=self._limiter.limits.header,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT,
                )
        except OSError:  # also ssl.SSLError, TimeoutError and a client that disconnected
            self._limiter.refusals.count(Refusal.HANDSHAKE)
        else:
            self._limiter.mark_open(connection)

    def _authorize(self, transport: asyncio.BaseTransport) -> bool:
        tls = self._reloader.loaded.configuration.tls_server_config
        if tls is None or has_allowed_san(tls, transport.get_extra_info("peercert")):
            return True
        self._limiter.refusals.count(Refusal.CERTIFICATE)
        return False


def _close_all(closing: Sequence[ListeningSockets]) -> None:
    for listening in closing:
        listening.close()
