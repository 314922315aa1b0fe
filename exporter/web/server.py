"""The web server: starts it, applies new settings, closes it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from exporter.errors import ConfigError, DeadlineExceeded
from exporter.web.config_reload import LoadedWebConfig, WebConfigReloader, load_web_config
from exporter.web.connection_limits import (
    ClientLimits,
    ConnectionLimiter,
    connections_for_descriptors,
)
from exporter.web.listener import Listener
from exporter.web.refusals import Refusals
from exporter.web.request_handler import RequestDispatcher
from exporter.web.request_turns import RequestTurns
from exporter.web.response_limits import ResponseLimiter
from exporter.web.routes import RouteHandlers
from exporter.web.settings import WebSettings
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds in which the web configuration and the files it names have to be read.
READ_TIMEOUT = 5.0
# Seconds for responses in progress when the server closes.
SERVER_CLOSE_TIMEOUT = 0.5


class WebServer:
    """Used from the event loop only."""

    def __init__(self, handlers: RouteHandlers) -> None:
        self.refusals = Refusals()
        self._handlers = handlers
        self._worker = Worker("web configuration")
        self._reloader: WebConfigReloader | None = None
        self._limiter: ConnectionLimiter | None = None
        self._responses: ResponseLimiter | None = None
        self._dispatcher: RequestDispatcher | None = None
        self._listener: Listener | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each listening TCP socket."""
        return self._listener.addresses if self._listener is not None else []

    async def start(self, settings: WebSettings) -> None:
        """Starts listening. Raises ConfigError: bad web configuration or address."""
        loaded = await self._load(settings.config_file)
        self._reloader = WebConfigReloader(loaded, settings.config_file)
        loop = asyncio.get_running_loop()
        self._limiter = ConnectionLimiter(loop, _limits(settings), self.refusals)
        self._responses = ResponseLimiter(loop, settings.max_requests, self.refusals)
        self._dispatcher = RequestDispatcher(
            self._handlers.routes(),
            self._reloader,
            self._responses,
            RequestTurns(loop),
            self.refusals,
            health_without_credentials=settings.health_without_credentials,
        )
        self._listener = Listener(
            self._dispatcher, self._reloader, self._limiter, SERVER_CLOSE_TIMEOUT
        )
        self._handlers.lifecycle_enabled = settings.enable_lifecycle
        await self._listen(self._listener, settings)

    async def apply(self, settings: WebSettings) -> None:
        """Applies new settings. Raises ConfigError; the old settings then stay in force."""
        loaded = await self._load(settings.config_file)
        if self._listener is None or self._reloader is None or self._dispatcher is None:
            return  # not started
        await self._listen(self._listener, settings)
        self._reloader.apply(loaded, settings.config_file)
        self._dispatcher.health_without_credentials = settings.health_without_credentials
        self._handlers.lifecycle_enabled = settings.enable_lifecycle
        if self._limiter is not None:
            self._limiter.limits = _limits(settings)
        if self._responses is not None:
            self._responses.max_requests = settings.max_requests

    async def close(self) -> None:
        """Stops listening and closes every connection."""
        if self._listener is not None:
            await self._listener.close()
        if self._responses is not None:
            self._responses.close()
        if self._reloader is not None:
            self._reloader.close()
        self._worker.close()

    async def _load(self, file: str) -> LoadedWebConfig:
        """Reads the files in a thread, as they may be on a mount that hangs. Raises ConfigError."""
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._worker.run(partial(load_web_config, file))
        except (TimeoutError, DeadlineExceeded):
            raise ConfigError(
                file, "", f"it and the files it names were not read within {READ_TIMEOUT:g} s"
            ) from None

    async def _listen(self, listener: Listener, settings: WebSettings) -> None:
        await listener.listen_on(
            settings.listen_address,
            int(settings.unix_socket_mode, 8),
            systemd=settings.systemd_socket,
        )


def _limits(settings: WebSettings) -> ClientLimits:
    connections = min(settings.max_connections, connections_for_descriptors())
    if connections < settings.max_connections:
        log.info(
            "web.max_connections: %d instead of %d, as the limit of open files leaves no more",
            connections,
            settings.max_connections,
        )
    return ClientLimits(
        connections=connections,
        header=settings.header_timeout,
        idle=settings.idle_timeout,
        reply=settings.reply_timeout,
    )
