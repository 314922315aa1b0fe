"""A server that answers what a test tells it to, byte by byte: for what a real one never says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Answer = bytes | Behaviour

EXTENSIONS = ["statistics", "model_repository"]


def http(body: bytes | str, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole reply."""
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def as_json(value: object, status: str = "200 OK") -> bytes:
    return http(json.dumps(value), status, "Content-Type: application/json\r\n")


def timed(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def model(name: str = "wine", scale: int = 1, **changes: Any) -> dict[str, Any]:
    """Statistics as a real server gives them: every number a known one, times `scale`."""
    return {
        "name": name,
        "version": "1",
        "last_inference": 1_795_223_338_287 if scale else 0,
        "inference_count": 12 * scale,
        "execution_count": 6 * scale,
        "inference_stats": {
            "success": timed(4 * scale, 4_000_000_000 * scale),
            "fail": timed(1 * scale, 500_000_000 * scale),
            "queue": timed(4 * scale, 1_000_000_000 * scale),
            "compute_input": timed(3 * scale, 200_000_000 * scale),
            "compute_infer": timed(3 * scale, 2_000_000_000 * scale),
            "compute_output": timed(3 * scale, 300_000_000 * scale),
            "cache_hit": timed(1 * scale, 100_000_000 * scale),
            "cache_miss": timed(3 * scale, 60_000_000 * scale),
        },
        "response_stats": {},
        "batch_stats": [
            {"batch_size": size, **dict.fromkeys(("compute_input", "compute_infer"), timed(n, n))}
            for size, n in ((1, 2 * scale), (4, 3 * scale))
        ],
        "memory_usage": [],
    } | changes


def statistics(*models: object) -> bytes:
    return as_json({"model_stats": list(models)})


def config(name: str = "wine", **changes: Any) -> bytes:
    """A model's configuration as a real server gives it, shortened."""
    return as_json(
        {
            "name": name,
            "platform": "",
            "backend": "python",
            "max_batch_size": 8,
            "instance_group": [{"name": f"{name}_0", "kind": "KIND_CPU", "count": 1, "gpus": []}],
        }
        | changes
    )


METADATA = as_json({"name": "triton", "version": "2.51.0", "extensions": EXTENSIONS})


class Fake:
    """`async with Fake() as fake:` - a small Triton at fake.url, whose answers may be changed.

    answers: by path. requests: (method, path, headers in lower case) so far.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {
            "/v2": METADATA,
            "/v2/health/ready": http(""),
            "/v2/models/stats": statistics(model()),
            "/v2/repository/index": as_json([{"name": "wine", "version": "1", "state": "READY"}]),
        }
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections = 0
        """Opened so far."""
        self.open = 0
        self.sent = 0
        """Bytes given to the operating system by `endless`."""
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
        """Accept connections, at the same port if it did before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Stop listening and break off every connection."""
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
                unknown = config() if path.endswith("/config") else http("", "404 Not Found")
                answer = self.answers.get(path, unknown)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client is gone
        finally:
            self.open -= 1
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    def stuck(self, start: bytes = b"") -> Behaviour:
        """Send this, then nothing more, until the client hangs up."""

        async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            await writer.drain()
            await reader.read()

        return behave

    def first(self, start: bytes) -> Behaviour:
        """Send this and close the connection."""

        async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            await writer.drain()

        return behave

    def endless(self, start: bytes, piece: bytes) -> Behaviour:
        """Send this, then the piece over and over, as fast as it is taken."""

        async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(start)
            while True:
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
                await asyncio.sleep(0)  # drain alone need not let the client have a turn

        return behave
