"""HTTP to one server, with bounds on everything: time, size, redirects, connections.

tritonclient's own session has none of them but a total time, and would ask for gzip without
decoding it; so its requests go through here (`library.py`), as does the probe.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from exporter import __version__
from exporter.errors import BadData, DeadlineExceeded, Unreachable
from exporter.sources.triton.address import Address
from exporter.worker import Worker

_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"inference-exporter/{__version__}"}


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    body: bytes


class _Resolver(AbstractResolver):
    """Looks names up in a daemon thread: one that hangs must not delay the daemon's end."""

    def __init__(self) -> None:
        self._worker = Worker("triton-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._worker.run(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._worker.close()


class Transport:
    """Requests to one server over a few kept connections, made at the first request."""

    def __init__(self, address: Address, max_reply_bytes: int) -> None:
        self._address = address
        self._max_reply_bytes = max_reply_bytes
        self._session: aiohttp.ClientSession | None = None
        self._resolver = _Resolver()

    async def request(self, method: str, path: str, body: bytes | None = None) -> Reply:
        """Ask, and read the whole reply, whatever its status. No redirect is followed.

        Bounded by the caller's timeout, whose end leaves the session usable. Raises Unreachable,
        BadData (no HTTP, compressed, or too long a reply), DeadlineExceeded (a name's look-up).
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, limit=4),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,  # a proxy for the world outside is none for a server in here
            )
        url = f"http://{self._address.netloc}/{path}"
        try:
            async with self._session.request(
                method, url, data=body, allow_redirects=False
            ) as response:
                return Reply(response.status, await self._read(response))
        except aiohttp.ClientResponseError as error:
            raise BadData(f"not HTTP: {line(error.message)}") from None
        except aiohttp.ClientPayloadError as error:
            raise Unreachable(f"the reply broke off: {line(error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("no connection in time") from None
            raise Unreachable(
                f"{line(error)}", f"is a Triton server running at {self._address.netloc}?"
            ) from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body. What is refused stays unread: aiohttp then closes the connection."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise BadData(
                f"a reply compressed with {line(encoding)}, which was not asked for",
                "let the proxy in front of the server honour Accept-Encoding",
            )
        body = bytearray()
        if (response.content_length or 0) <= self._max_reply_bytes:
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > self._max_reply_bytes:
                    break
            else:
                return bytes(body)
        raise BadData(
            f"a reply longer than {self._max_reply_bytes} bytes",
            "raise triton.max_reply_bytes if the server really has so many models",
        )

    async def close(self) -> None:
        """Close all connections; never waits for a peer."""
        await self._resolver.close()
        if self._session is not None:
            await self._session.close()
            self._session = None


def line(words: object) -> str:
    """A peer's words, or an error's, as part of one short line."""
    text = " ".join(str(words).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
