"""Requests of a poll to a Triton server; every failure is a SourceError."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from exporter.errors import BadData, DeadlineExceeded, Forbidden, Unsupported
from exporter.faults import Faults
from exporter.http_client.client import BadRequest, HttpClient, HttpResponse
from exporter.lean_import import lean_import
from exporter.sources.triton import decoding
from exporter.sources.triton.decoding import Decoded, Metadata
from exporter.sources.triton.http_errors import RESTRICTED
from exporter.sources.triton.reading import ModelConfigSummary, ModelCounts, ModelKey
from exporter.sources.triton.shared_models import ModelLimits
from exporter.worker import Worker

T = TypeVar("T")

# What tritonclient.http imports for tensors and for its blocking client: 20 MB. The exporter makes
# no inference request.
UNUSED = (
    "gevent",
    "gevent.pool",
    "geventhttpclient",
    "geventhttpclient.url",
    "ml_dtypes",
    "numpy",
)


class TritonClient:
    """Calls of the KServe v2 API and Triton's extensions. They may be cancelled.

    Each raises SourceErrors only. deadline: event loop time by which the response must be complete.
    importer: thread that imports tritonclient. decoder: thread that decodes responses.
    limits: returns those of the models.
    """

    def __init__(
        self,
        transport: HttpClient,
        importer: Worker,
        decoder: Worker,
        limits: Callable[[], ModelLimits],
    ) -> None:
        self._transport = transport
        self._importer = importer
        self._decoder = decoder
        self._limits = limits
        self._library: Any = None

    async def metadata(self, deadline: float) -> Metadata:
        """Requests GET /v2."""
        return await self._call(
            lambda body: self._decoder.run(partial(decoding.metadata, body)),
            deadline,
            "get_server_metadata",
        )

    async def statistics(self, deadline: float) -> Decoded[ModelCounts]:
        """Requests GET /v2/models/stats for all models; returns problems of single models, too.

        A model that is unloaded while the server writes the response can turn all of it into HTTP
        400: such a request is repeated once.
        """

        def decode(body: bytes) -> Awaitable[Decoded[ModelCounts]]:
            return self._decoder.run_steps(decoding.statistics(body, self._limits()))

        try:
            return await self._call(decode, deadline, "get_inference_statistics")
        except BadRequest:
            return await self._call(decode, deadline, "get_inference_statistics")

    async def states(self, deadline: float) -> Decoded[str]:
        """Requests POST /v2/repository/index; returns problems of single models, too."""
        return await self._call(
            lambda body: self._decoder.run_steps(decoding.states(body, self._limits())),
            deadline,
            "get_model_repository_index",
        )

    async def config(self, key: ModelKey, deadline: float) -> tuple[ModelConfigSummary, Faults]:
        """Requests GET /v2/models/MODEL/versions/VERSION/config."""
        model, version = key
        # The library quotes the model name in the path, but not its slashes, and not the version.
        if not (version.isascii() and version.isdigit()):
            raise BadData("the model version is not a number")
        if "/" in model or model in (".", ".."):
            raise BadData("the model name is not the name of a folder")
        return await self._call(
            lambda body: self._decoder.run(partial(decoding.config, body)),
            deadline,
            "get_model_config",
            model,
            version,
        )

    async def server_ready(self, deadline: float) -> bool:
        """Requests GET /v2/health/ready.

        Not through tritonclient, which reports every status but 200 as not ready: a proxy's 404 or
        a restricted endpoint's 403 is not the server's readiness.
        """
        response = await _with_deadline(self._ready(deadline), deadline)
        status = response.status
        if status in (401, 403):
            raise Forbidden(f"HTTP {status}", RESTRICTED)
        if status not in (200, 400, 503):
            raise Unsupported(response.status_text, "does a proxy respond instead of the server?")
        return status == 200

    async def close(self) -> None:
        await self._transport.close()

    async def _call(
        self,
        decode: Callable[[bytes], Awaitable[T]],
        deadline: float,
        method: str,
        *arguments: str,
    ) -> T:
        """Calls a method of tritonclient's InferenceServerClient, and decodes the response."""

        async def call() -> T:
            if self._library is None:
                client_class = await self._importer.run(_import_client_class)
                self._library = await client_class.create(self._transport)
            async with self._transport.memory(deadline) as share:
                response: HttpResponse = await self._library.call(share, method, *arguments)
                return await decode(response.body)

        return await _with_deadline(call(), deadline)

    async def _ready(self, deadline: float) -> HttpResponse:
        async with self._transport.memory(deadline) as share:
            return await self._transport.request(share, "GET", "v2/health/ready")


async def _with_deadline(request: Awaitable[T], deadline: float) -> T:
    """Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout_at(deadline):
            return await request
    except TimeoutError:
        raise DeadlineExceeded(
            "no complete response in time", "is the server paused, or overloaded?"
        ) from None


def _import_client_class() -> Any:
    """Imports BoundedClient, which takes 0.1 s: not in the event loop, nor without a server."""
    try:
        with lean_import("tritonclient", UNUSED):
            return importlib.import_module("exporter.sources.triton.library").BoundedClient
    except ImportError as error:
        raise Unsupported(
            f"tritonclient cannot be imported: {error}", "install tritonclient[http]"
        ) from None
