"""The web server as a whole: starts, goes over to new settings, stops."""

from __future__ import annotations

import asyncio
from functools import partial

from exporter.web.config_reload import WebConfigReloader, load_web_config
from exporter.web.connection_limits import ClientLimits, ConnectionLimiter
from exporter.web.listener import Listener
from exporter.web.request_handler import RequestDispatcher
from exporter.web.routes import RouteHandlers
from exporter.web.settings import WebSettings
from exporter.worker import Worker

# Seconds that replies under way are given at the end.
SERVER_CLOSE_TIMEOUT = 0.5


class WebServer:
    """Used from the event loop only."""

    def __init__(self, site: RouteHandlers) -> None:
        self._site = site
        self._worker = Worker("web configuration")
        self._protection: WebConfigReloader | None = None
        self._hall: ConnectionLimiter | None = None
        self._guard: RequestDispatcher | None = None
        self._listener: Listener | None = None

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens: (host, port) of each TCP socket."""
        return self._listener.addresses if self._listener is not None else []

    async def start(self, settings: WebSettings) -> None:
        """Listen. Raises ConfigError where that, or the web configuration, fails."""
        loaded = await self._worker.run(partial(load_web_config, settings.config_file))
        self._protection = WebConfigReloader(loaded, settings.config_file)
        self._hall = ConnectionLimiter(asyncio.get_running_loop(), _limits(settings))
        self._guard = RequestDispatcher(
            self._site.routes(),
            self._protection,
            self._hall,
            open_health=settings.health_without_credentials,
        )
        self._listener = Listener(self._guard, self._protection, self._hall, SERVER_CLOSE_TIMEOUT)
        self._site.lifecycle = settings.enable_lifecycle
        await self._listener.start()
        await self._listen(self._listener, settings)

    async def apply(self, settings: WebSettings) -> None:
        """Go over to new settings. Raises ConfigError, with all as it was, if it cannot."""
        loaded = await self._worker.run(partial(load_web_config, settings.config_file))
        if self._listener is None or self._protection is None or self._guard is None:
            return  # not started: there is nothing to go over
        await self._listen(self._listener, settings)
        self._protection.take(loaded, settings.config_file)
        self._guard.open_health = settings.health_without_credentials
        self._site.lifecycle = settings.enable_lifecycle
        if self._hall is not None:
            self._hall.limits = _limits(settings)

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            await self._listener.close()
        if self._protection is not None:
            self._protection.close()
        self._worker.close()

    async def _listen(self, listener: Listener, settings: WebSettings) -> None:
        await listener.go_over(
            settings.listen_address,
            int(settings.unix_socket_mode, 8),
            systemd=settings.systemd_socket,
        )


def _limits(settings: WebSettings) -> ClientLimits:
    return ClientLimits(
        connections=settings.max_connections,
        requests=settings.max_requests,
        header=settings.header_timeout,
        idle=settings.idle_timeout,
        reply=settings.reply_timeout,
    )
