"""Listens for spans, and publishes the histograms they make."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from exporter.context import Context
from exporter.errors import ConfigError, Forbidden, NotFound, SourceError, Unreachable
from exporter.http_client.credentials import Secret
from exporter.model import Metric, Reading, Target, Up
from exporter.trace_posts import PostLimits, TraceListener, TracePost
from exporter.traces.collector import Collector, protobuf_missing
from exporter.traces.reading import ListenerRow
from exporter.traces.servers import Servers
from exporter.traces.settings import Settings
from exporter.traces.traced_servers import TracedServers
from exporter.worker import Worker

log = logging.getLogger("exporter")

# Seconds between two polls that spans of an unknown model request.
_POLL_REQUEST_INTERVAL = 1.0
# Seconds for which the trace rate of a model stays of interest after its last trace.
_USED_SECONDS = 60.0


class TracesSource:
    """Opens the listener at the first discovery; its target is the listener."""

    name = "traces"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._secret = Secret(settings.token) if settings.token else None
        self._target = ListenerTarget(settings, context)
        self._file_worker = Worker("traces token")

    async def discover(self) -> Sequence[Target]:
        """Opens the listener, unless it is open; reads the token's file.

        Raises NotFound where the daemon does not run, Unreachable if the address cannot be used,
        Forbidden if the token cannot be read: the listener then refuses every sender.
        """
        if self._context.open_trace_listener is None:
            raise NotFound("the listener for traces is open in the daemon only")
        token: bytes | None = None
        error: SourceError | None = None
        if self._secret is not None:
            try:
                token = await self._file_worker.run(self._secret.read)
                if not token.strip():
                    raise Forbidden("the token of traces is empty", "write it into its file")
                token = token.strip()
            except SourceError as failure:
                token, error = b"", failure
        await self._target.open(self._context.open_trace_listener, token)
        if error is not None:
            raise error
        return (self._target,)

    async def restore(self) -> None:
        """Restores the trace settings of the servers."""
        await self._target.servers.restore()

    async def close(self) -> None:
        self._file_worker.close()
        await self._target.close()


class ListenerTarget:
    """The listener, and the histograms of the spans it received."""

    name = "listener"

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._listener: TraceListener | None = None
        self._posts: list[TracePost] = []
        self._arrived = asyncio.Event()
        self._worker = Worker("traces", shared=True)
        self._collector = Collector(
            settings.max_body_bytes, settings.max_spans, settings.max_models, settings.window
        )
        self.servers = Servers(settings, context)
        self._protobuf_missing = protobuf_missing()
        self._consumer: asyncio.Task[None] | None = None
        self._request_poll: Callable[[], None] = lambda: None
        self._requested = -_POLL_REQUEST_INTERVAL

    @property
    def up(self) -> Metric[Up] | None:
        return None

    @property
    def up_labels(self) -> tuple[str, ...]:
        return ()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each socket."""
        return self._listener.addresses if self._listener is not None else []

    def set_poll_callback(self, request_poll: Callable[[], None]) -> None:
        self._request_poll = request_poll

    async def open(self, open_listener: Callable[..., object], token: bytes | None) -> None:
        """Opens the listener, unless it is open, and sets its token. Raises Unreachable."""
        if self._listener is not None:
            self._listener.token = token
            return
        limits = PostLimits(self._settings.max_body_bytes, self._settings.max_posts)
        try:
            self._listener = await open_listener(  # type: ignore[misc]  # an OpenTraceListener
                self._settings.listen_address,
                limits,
                token,
                self._protobuf_missing is None,
                self._take,
            )
        except ConfigError as error:
            raise Unreachable(
                f"cannot listen for traces on {error.message}",
                "does another collector, or another exporter, use this port?",
            ) from None
        self._consumer = asyncio.create_task(self._consume(), name="traces")

    async def read(self) -> Reading:
        """Returns the histograms; asks the servers for their trace settings first."""
        wanted = await self._worker.run(
            partial(self._collector.take_wanted, time.monotonic(), _USED_SECONDS)
        )
        traced_servers, problems = await self.servers.update(wanted)
        reading = await self._worker.run(partial(self._collected, traced_servers))
        rows, problems = list(reading.rows), [*problems, *reading.problems]
        if self._listener is not None:
            rows.append(
                ListenerRow(
                    self._collector.posts,
                    self._collector.spans,
                    tuple(self._listener.shed.items()),
                    tuple(self._collector.left_out.items()),
                )
            )
        if self._protobuf_missing is not None:
            problems.append(self._protobuf_missing)
        return Reading(tuple(rows), tuple(problems))

    def _collected(self, traced_servers: TracedServers) -> Reading:
        """Returns the rows and problems of the collector. Runs in its thread."""
        self._collector.traced_servers = traced_servers
        return Reading(tuple(self._collector.rows(time.monotonic())), self._collector.problems())

    def _take(self, post: TracePost) -> None:
        self._posts.append(post)
        self._arrived.set()

    async def _consume(self) -> None:
        """Passes the POSTs to the thread that reads them."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            posts, self._posts = self._posts, []
            try:
                add = self._collector.add(posts, time.monotonic(), time.time())
                await self._worker.run_steps(add)
            except SourceError as error:  # no thread, or closing
                log.warning("traces: %d POSTs dropped: %s", len(posts), error)
            except Exception:
                log.exception("traces: %d POSTs dropped", len(posts))
            finally:
                for post in posts:
                    post.done()
            now = time.monotonic()
            if self._collector.incomplete and now - self._requested >= _POLL_REQUEST_INTERVAL:
                self._requested = now
                self._request_poll()

    async def close(self) -> None:
        if self._consumer is not None:
            self._consumer.cancel()
        if self._listener is not None:
            await self._listener.close()
        self._worker.close()
