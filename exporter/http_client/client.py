"""HTTP to one server, with bounds on everything: time, size, redirects, connections.

Clients of their own (tritonclient's, for one) have few of them; so requests go through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from exporter import __version__
from exporter.errors import BadData, DeadlineExceeded, Unreachable
from exporter.http_client.address import Address
from exporter.http_client.credentials import Credentials
from exporter.http_client.discovered import ResolvedAddress
from exporter.worker import Worker

# Seconds an idle connection is kept: longer than any interval between two polls.
_KEPT = 600.0
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"inference-exporter/{__version__}"}


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole reply. content_type: as the server wrote it."""

    status: int
    body: bytes
    content_type: str = ""


class BadRequest(BadData):
    """The server refuses the request as such (HTTP 400), as for a model it does not have."""


class _Resolver(AbstractResolver):
    """Looks names up in a daemon thread: one that hangs must not delay the daemon's end."""

    def __init__(self) -> None:
        self._worker = Worker("names")

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

    async def whereabouts(self, address: Address) -> ResolvedAddress:
        """Where an address leads. Raises Unreachable, DeadlineExceeded."""
        try:
            return await self._worker.run(lambda: _whereabouts(address))
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{address.netloc}: {one_line(error)}") from None

    async def close(self) -> None:
        self._worker.close()


def _whereabouts(address: Address) -> ResolvedAddress:
    """Blocks. Whether an address is this host's own shows in a UDP socket that is "connected" to
    it, which sends nothing: it then has that very address itself.
    """
    found = socket.getaddrinfo(address.host, address.port, socket.AF_UNSPEC, socket.SOCK_DGRAM)
    local = False
    for family, kind, protocol, _, where in found:
        # No route there, or none of that family: so it is not this host.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(where)
            local = local or probe.getsockname()[0] == where[0]
    return ResolvedAddress(frozenset(str(where[0]) for *_, where in found), local)


class HttpClient:
    """Requests to one server over a few kept connections, made at the first request.

    what: what is thought to listen there, for people.
    """

    def __init__(
        self,
        address: Address,
        max_reply_bytes: int,
        access: Credentials | None = None,
        what: str = "",
    ) -> None:
        self.address = address
        self._access = access if access is not None else Credentials()
        self._what = what or "a server"
        self._max_reply_bytes = max_reply_bytes
        self._session: aiohttp.ClientSession | None = None
        self._resolver = _Resolver()
        self._worker = Worker("secrets")
        self._headers: dict[str, str] | None = None
        self._closed = False
        self.connections = 0
        """Opened so far."""

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Ask, and read the whole reply, whatever its status. No redirect is followed.

        Bounded by the caller's timeout, whose end leaves the session usable. Raises Unreachable,
        BadData (no HTTP, compressed, or too long a reply), DeadlineExceeded (a name's look-up),
        Forbidden (a secret or a certificate of ours that cannot be read).
        """
        own = await self._shown()
        session = await self._ready()  # last, for nothing may close it before it is used
        url = f"{self.address.base}/{path}"
        try:
            async with session.request(
                method,
                url,
                data=body,
                allow_redirects=False,
                headers={**own, **(headers or {})},
            ) as response:
                if response.status in (401, 403):
                    self._headers = None  # the file of a secret may have changed
                kind = response.headers.get("Content-Type", "")
                return HttpReply(response.status, await self._read(response), kind)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Unreachable("no longer wanted") from None  # aiohttp cancelled a look-up
            raise
        except aiohttp.ClientResponseError as error:
            raise BadData(f"not HTTP: {one_line(error.message)}") from None
        except aiohttp.ClientPayloadError as error:
            raise Unreachable(f"the reply broke off: {one_line(error)}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unreachable(
                f"its certificate is not trusted: {one_line(error.certificate_error)}",
                "set ca_file to the certificates that sign it",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("no connection in time") from None
            raise Unreachable(
                f"{one_line(error)}", f"is {self._what} running at {self.address.netloc}?"
            ) from None

    async def _ready(self) -> aiohttp.ClientSession:
        """The session, made at the first request. Raises Unreachable once it is closed."""
        if self._session is None and not self._closed:
            session = await self._open()
            if self._session is not None or self._closed:  # something else was quicker
                await session.close()
            else:
                self._session = session
        if self._session is None:  # its container went away while a read was under way
            raise Unreachable("no longer wanted")
        return self._session

    async def _shown(self) -> dict[str, str]:
        """The headers of ours to send, read anew where the last were refused."""
        if self._headers is None:
            reading = self._access.headers
            self._headers = await self._worker.run(self._access.read) if reading else {}
        return self._headers

    async def whereabouts(self) -> ResolvedAddress:
        """Where the address leads. Raises Unreachable or DeadlineExceeded."""
        if self.address.socket:
            return ResolvedAddress(local=True)
        return await self._resolver.whereabouts(self.address)

    async def _open(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self.address.socket:
            connector = aiohttp.UnixConnector(self.address.socket, limit=4, keepalive_timeout=_KEPT)
        else:
            tls: ssl.SSLContext | bool = True
            if self.address.scheme == "https":
                tls = await self._worker.run(self._access.tls)
            connector = aiohttp.TCPConnector(
                resolver=self._resolver, limit=4, keepalive_timeout=_KEPT, ssl=tls
            )
        traces = aiohttp.TraceConfig()
        traces.on_connection_create_end.append(self._connected)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,  # a proxy for the world outside is none for a server in here
            trace_configs=[traces],
        )

    async def _connected(
        self,
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        parameters: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        self.connections += 1

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The whole body. What is refused stays unread: aiohttp then closes the connection."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise BadData(
                f"a reply compressed with {one_line(encoding)}, which was not asked for",
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
            "raise max_reply_bytes if the server really has so much to say",
        )

    async def close(self) -> None:
        """Close all connections, for good; never waits for a peer."""
        self._closed = True
        session, self._session = self._session, None  # at once: no read may find it half closed
        self._worker.close()
        await self._resolver.close()
        if session is not None:
            await session.close()


def one_line(words: object) -> str:
    """A peer's words, or an error's, as part of one short line."""
    text = " ".join(str(words).split())
    return text if len(text) <= 200 else f"{text[:200]}…"
