"""What is asked of a Triton server, and every way it can fail as one of our errors."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from exporter.errors import BadData, DeadlineExceeded, Forbidden, Unsupported
from exporter.http_client.client import BadRequest, HttpClient, HttpReply
from exporter.sources.triton import decoding
from exporter.sources.triton.decoding import Metadata
from exporter.sources.triton.reading import ModelConfigSummary, ModelCounts, ModelKey
from exporter.worker import Worker


class TritonClient:
    """The calls of a poll. Each raises SourceErrors only, and may be cancelled.

    deadline: the event loop's time by which the answer must be there, whole.
    """

    def __init__(self, transport: HttpClient, importer: Worker, max_models: int) -> None:
        self._transport = transport
        self._importer = importer
        self._max_models = max_models
        self._library: Any = None

    async def metadata(self, deadline: float) -> Metadata:
        """GET /v2."""
        reply = await self._call("get_server_metadata", deadline)
        return decoding.metadata(reply.body)

    async def statistics(
        self, deadline: float
    ) -> tuple[dict[ModelKey, ModelCounts], list[BadData]]:
        """GET /v2/models/stats: of all models; and what was wrong with some.

        A model that is unloaded while the server writes can turn the whole reply into a 400: then
        it is asked once more.
        """
        try:
            reply = await self._call("get_inference_statistics", deadline)
        except BadRequest:
            reply = await self._call("get_inference_statistics", deadline)
        return decoding.statistics(reply.body, self._max_models)

    async def states(self, deadline: float) -> tuple[dict[ModelKey, str], list[BadData]]:
        """POST /v2/repository/index: of all models; and what was wrong with some."""
        reply = await self._call("get_model_repository_index", deadline)
        return decoding.states(reply.body, self._max_models)

    async def config(self, key: ModelKey, deadline: float) -> ModelConfigSummary:
        """GET /v2/models/MODEL/versions/VERSION/config."""
        model, version = key
        if not (version.isascii() and version.isdigit()):
            raise BadData("a model's version is no number")  # it would be part of a path
        reply = await self._call("get_model_config", deadline, model, version)
        return decoding.config(reply.body)

    async def server_ready(self, deadline: float) -> bool:
        """GET /v2/health/ready. An answer that is not about readiness is no answer."""
        reply = await self._call("is_server_ready", deadline)
        if reply.status in (401, 403):
            raise Forbidden(
                f"HTTP {reply.status}", "the server, or a proxy before it, restricts this call"
            )
        if reply.status not in (200, 400, 503):
            raise Unsupported(f"HTTP {reply.status}", "does a proxy answer in the server's place?")
        return reply.status == 200

    async def close(self) -> None:
        await self._transport.close()

    async def _call(self, method: str, deadline: float, *arguments: str) -> HttpReply:
        try:
            async with asyncio.timeout_at(deadline):
                if self._library is None:
                    make = await self._importer.run(_import)
                    self._library = make(self._transport)
                reply: HttpReply = await self._library.call(method, *arguments)
                return reply
        except TimeoutError:
            raise DeadlineExceeded(
                "no whole answer in time", "is the server paused, or overloaded?"
            ) from None


def _import() -> Any:
    """Slow and heavy, so not in the event loop and not before a server is to be read."""
    try:
        return importlib.import_module("exporter.sources.triton.library").BoundedClient
    except ImportError as error:
        raise Unsupported(
            f"tritonclient cannot be imported: {error}", "install tritonclient[http]"
        ) from None
