"""FakeTriton Triton server with configurable raw responses, for those a real server never sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from tests.ports import free_port

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Response = bytes | Behaviour

EXTENSIONS = ["statistics", "model_repository"]


def http_response(body: bytes | str, status: str = "200 OK", headers: str = "") -> bytes:
    """Returns a complete response."""
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def json_response(value: object, status: str = "200 OK") -> bytes:
    return http_response(json.dumps(value), status, "Content-Type: application/json\r\n")


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def model(name: str = "wine", scale: int = 1, **changes: Any) -> dict[str, Any]:
    """Returns one model's statistics as a real server sends them: known values times `scale`."""
    return {
        "name": name,
        "version": "1",
        "last_inference": 1_795_223_338_287 if scale else 0,
        "inference_count": 12 * scale,
        "execution_count": 6 * scale,
        "inference_stats": {
            "success": duration(4 * scale, 4_000_000_000 * scale),
            "fail": duration(1 * scale, 500_000_000 * scale),
            "queue": duration(4 * scale, 1_000_000_000 * scale),
            "compute_input": duration(3 * scale, 200_000_000 * scale),
            "compute_infer": duration(3 * scale, 2_000_000_000 * scale),
            "compute_output": duration(3 * scale, 300_000_000 * scale),
            "cache_hit": duration(1 * scale, 100_000_000 * scale),
            "cache_miss": duration(3 * scale, 60_000_000 * scale),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                **dict.fromkeys(("compute_input", "compute_infer"), duration(count, count)),
            }
            for size, count in ((1, 2 * scale), (4, 3 * scale))
        ],
        "memory_usage": [],
    } | changes


def statistics(*models: object) -> bytes:
    return json_response({"model_stats": list(models)})


def config(name: str = "wine", **changes: Any) -> bytes:
    """Returns a model's configuration as a real server sends it, shortened."""
    return json_response(
        {
            "name": name,
            "platform": "",
            "backend": "python",
            "max_batch_size": 8,
            "instance_group": [{"name": f"{name}_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        }
        | changes
    )


METADATA = json_response({"name": "triton", "version": "2.51.0", "extensions": EXTENSIONS})


class FakeTriton:
    """`async with FakeTriton() as fake:` - a small Triton server at fake.url.

    responses: by path; tests may change them. requests: (method, path, headers with lower-case
    names) received so far.
    """

    def __init__(self) -> None:
        self.responses: dict[str, Response] = {
            "/v2": METADATA,
            "/v2/health/ready": http_response(""),
            "/v2/models/stats": statistics(model()),
            "/v2/repository/index": json_response(
                [{"name": "wine", "version": "1", "state": "READY"}]
            ),
        }
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections = 0
        """Number opened so far."""
        self.open = 0
        self.sent = 0
        """Bytes passed to the operating system by `endless`."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shut()

    async def listen(self) -> None:
        """Accepts connections, on the previous port if it listened before.

        Not on one that the kernel chooses: while this does not listen, others may get it.
        """
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Stops listening and closes every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                method, path, _ = head[0].split(" ")
                pairs = (line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in pairs}
                await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((method, path, headers))
                unknown = (
                    config() if path.endswith("/config") else http_response("", "404 Not Found")
                )
                response = self.responses.get(path, unknown)
                if isinstance(response, bytes):
                    writer.write(response)
                    await writer.drain()
                else:
                    await response(reader, writer)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client closed the connection
        finally:
            self.open -= 1
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    def stuck(self, start: bytes = b"") -> Behaviour:
        """Sends this, then nothing more until the client closes the connection."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            await writer.drain()
            await reader.read()

        return behave

    def then_close(self, start: bytes) -> Behaviour:
        """Sends this and closes the connection."""

        async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            await writer.drain()

        return behave

    def endless(self, start: bytes, piece: bytes) -> Behaviour:
        """Sends this, then the piece repeatedly, as fast as the client reads."""

        async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            while True:
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
                await asyncio.sleep(0)  # drain alone need not yield to the client

        return behave
