"""HTTP client for one server, with bounds on time, size, redirects and connections.

Vendors' clients (such as tritonclient's) lack most of these bounds, so all requests use this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from exporter import __version__
from exporter.errors import BadData, DeadlineExceeded, Unreachable
from exporter.http_client.address import Address, location_without_secrets
from exporter.http_client.connection import MarkedValues, ServerConnection, mark_value
from exporter.http_client.credentials import Credentials
from exporter.http_client.discovered import ResolvedAddress
from exporter.http_client.shared_memory import MemoryShare, Reader, SharedMemory
from exporter.worker import Worker

# Seconds an idle connection is kept open: longer than the interval between two polls.
_KEEPALIVE = 600.0
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"inference-exporter/{__version__}"}


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response. content_type, location: the headers' values, unparsed."""

    status: int
    body: bytes
    content_type: str = ""
    location: str = ""

    @property
    def status_text(self) -> str:
        """The status, and the address that a redirect leads to."""
        return _status_text(self.status, self.location)


@dataclass(frozen=True, slots=True)
class OpenResponse:
    """A response whose body is not read yet. pieces: yields the body, once."""

    status: int
    content_type: str
    location: str
    pieces: AsyncIterator[bytes]

    @property
    def status_text(self) -> str:
        """The status, and the address that a redirect leads to."""
        return _status_text(self.status, self.location)


REDIRECT_REMEDY = "redirects are not followed: set the address that the server names"

# Codings that compress. Some servers send other values, mostly a character set (utf-8) or none,
# with a body that has no coding; Prometheus reads it.
_COMPRESSIONS = frozenset(("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"))

# Bodies that are being read or decoded as a whole, by all clients together, besides the largest.
_BODIES = SharedMemory(16 << 20, "responses")


class BadRequest(BadData):
    """HTTP 400, such as for a model that the server does not have."""


class _Resolver(AbstractResolver):
    """Resolves host names in a daemon thread, so that a hanging lookup does not delay the exit."""

    def __init__(self) -> None:
        self._worker = Worker("resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        entries = await self._worker.run(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=_numeric_host(address),
                port=int(address[1]),
                family=address_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address_family, _, protocol, _, address in entries
        ]

    async def resolve_address(self, address: Address) -> ResolvedAddress:
        """Raises Unreachable, DeadlineExceeded."""
        try:
            return await self._worker.run(lambda: _resolve(address))
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{address.netloc}: {one_line(error)}") from None

    async def close(self) -> None:
        self._worker.close()


def _numeric_host(address: tuple[Any, ...]) -> str:
    """Returns the host of a socket address, with the zone of a link-local IPv6 address."""
    zone = address[3] if len(address) == 4 else 0
    return f"{address[0]}%{zone}" if zone else str(address[0])


def _resolve(address: Address) -> ResolvedAddress:
    """Resolves a host name. Blocks.

    Connecting a UDP socket sends nothing and selects its source address: for an address of this
    host that is the same address.
    """
    entries = socket.getaddrinfo(address.host, address.port, socket.AF_UNSPEC, socket.SOCK_DGRAM)
    own: set[bool] = set()
    for family, kind, protocol, _, sockaddr in entries:
        # An address without a route, or of an unsupported family, does not belong to this host.
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.connect(sockaddr)
            own.add(probe.getsockname()[0] == sockaddr[0])
    return ResolvedAddress(
        frozenset(str(sockaddr[0]) for *_, sockaddr in entries),
        local=True in own,
        only_local=own == {True},
    )


@functools.lru_cache(maxsize=256)
def _url(address: Address, path: str) -> URL:
    """Returns the URL of a request, in which aiohttp changes nothing.

    The same object at each poll: its parts are parsed once.
    """
    netloc = "localhost" if address.socket else address.netloc
    if address.zone:  # connecting needs the zone as the kernel names it
        netloc = netloc.replace("%25", "%", 1)
    target = f"{address.path}/{path}"
    if address.query:
        target = f"{target}{'&' if '?' in path else '?'}{address.query}"
    # All as the path: parsing would drop a question mark without a query.
    return URL.build(scheme=address.scheme, authority=netloc, path=target, encoded=True)


class HttpClient:
    """Sends requests to one server over at most 4 kept connections, opened at the first request.

    server_kind: expected kind of server ("a Triton server"), for error remedies.
    """

    def __init__(
        self,
        address: Address,
        max_response_bytes: int,
        credentials: Credentials | None = None,
        server_kind: str = "a server",
    ) -> None:
        self.address = address
        self._credentials = replace(credentials or Credentials(), login=address.login)
        self._server_kind = server_kind
        self._max_response_bytes = max_response_bytes
        self._session: aiohttp.ClientSession | None = None
        self._resolver = _Resolver()
        self._worker = Worker("credentials")
        self._credential_headers: dict[str, str] | None = None
        self._reader = Reader()
        self._marked_values: MarkedValues = {}
        self._closed = False
        self.connections = 0
        """Number opened so far."""

    def memory(self, deadline: float) -> AbstractAsyncContextManager[MemoryShare]:
        """Returns the memory of one response, to hold from the request until it is decoded.

        deadline: of the request and the decoding, as event loop time. Raises DeadlineExceeded.
        """
        return _BODIES.share(self._reader, deadline)

    async def request(
        self, share: MemoryShare, method: str, path: str, body: bytes | None = None
    ) -> HttpResponse:
        """Sends a request; returns the complete response, whatever its status. Raises as `open`.

        share: of `memory`.
        """
        received = bytearray()
        async with self.open(method, path, body) as response:
            async for piece in response.pieces:
                # Growing may copy, and `bytes` copies at the end.
                await share.grow(2 * (len(received) + len(piece)))
                received += piece
            return HttpResponse(
                response.status, bytes(received), response.content_type, response.location
            )

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[OpenResponse]:
        """Sends a request; yields the response, whatever its status, with its body unread.

        path: appended to the address, then its query; sent exactly as written. If the block leaves
        a part of the body unread, the connection is closed. Follows no redirect. The caller sets
        the timeout; the session stays usable after it. Raises Unreachable, BadData (not HTTP,
        compressed, or too long), DeadlineExceeded (connecting, or a name lookup that still hangs),
        Forbidden (an unreadable secret or CA file).
        """
        credential_headers = await self._read_credentials()
        session = await self._get_session()  # last: no await between this and its use
        try:
            async with session.request(
                method,
                _url(self.address, path),
                data=body,
                allow_redirects=False,
                headers={**self._zone_headers, **credential_headers, **(headers or {})},
                server_hostname=self.address.host.partition("%")[0] if self.address.zone else None,
            ) as response:
                if response.status in (401, 403):
                    self._credential_headers = None  # the secret file may have changed
                content_type = response.headers.get("Content-Type", "")
                location = response.headers.get("Location", "")
                async with contextlib.aclosing(self._pieces(response)) as pieces:
                    yield OpenResponse(response.status, content_type, location, pieces)
        except (asyncio.CancelledError, RuntimeError):
            # aiohttp cancels a lookup, or has no other exception for a body that is not read.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise Unreachable("the client is closed") from None
            raise
        except aiohttp.ClientResponseError as error:
            raise BadData(f"not HTTP: {one_line(error.message)}") from None
        except aiohttp.ClientPayloadError as error:
            raise Unreachable(f"incomplete response: {one_line(error)}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unreachable(
                f"certificate not trusted: {one_line(error.certificate_error)}",
                "set ca_file to the CA certificate that signed it",
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("connection timed out") from None
            # aiohttp adds its setting of TLS, also without TLS.
            message = one_line(error).replace(" ssl:default", "")
            raise Unreachable(
                message, f"is {self._server_kind} running at {self.address.netloc}?"
            ) from None

    @property
    def _zone_headers(self) -> dict[str, str]:
        """The header Host, if it is not what aiohttp would send."""
        return {"Host": self.address.host_header} if self.address.zone else {}

    async def _get_session(self) -> aiohttp.ClientSession:
        """Returns the session, created at the first request. Raises Unreachable after close()."""
        if self._session is None and not self._closed:
            session = await self._create_session()
            if self._session is not None or self._closed:  # by a concurrent call
                await session.close()
            else:
                self._session = session
        if self._session is None:  # the server's container was removed during the read
            raise Unreachable("the client is closed")
        return self._session

    async def _read_credentials(self) -> dict[str, str]:
        """Returns the credential headers; reads secret files again after HTTP 401 or 403."""
        if self._credential_headers is None:
            values = {}
            if self._credentials.sent:
                values = await self._worker.run(self._credentials.read)
            self._credential_headers = {
                name: mark_value(value, self._marked_values) for name, value in values.items()
            }
        return self._credential_headers

    async def resolve(self) -> ResolvedAddress:
        """Resolves the server's host name. Raises Unreachable, DeadlineExceeded."""
        if self.address.socket:
            return ResolvedAddress(local=True)
        return await self._resolver.resolve_address(self.address)

    async def _create_session(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self.address.socket:
            connector = aiohttp.UnixConnector(
                self.address.socket, limit=4, keepalive_timeout=_KEEPALIVE
            )
        else:
            tls: ssl.SSLContext | bool = True
            if self.address.scheme == "https":
                tls = await self._worker.run(self._credentials.tls)
            connector = aiohttp.TCPConnector(
                resolver=self._resolver, limit=4, keepalive_timeout=_KEEPALIVE, ssl=tls
            )
        # aiohttp has no public way to give a connection another protocol; a test fails if this
        # attribute is renamed.
        factory = functools.partial(
            ServerConnection, asyncio.get_running_loop(), self._marked_values, self._connected
        )
        connector._factory = factory  # type: ignore[assignment]  # noqa: SLF001 - a subclass's
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,  # HTTP_PROXY is for the internet, not for local servers
        )

    def _connected(self) -> None:
        self.connections += 1

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Yields the body. Raises BadData if it is compressed or too long."""
        encoding = ", ".join(response.headers.getall("Content-Encoding", ()))
        if not _COMPRESSIONS.isdisjoint(re.split(r"[\s,]+", encoding.lower())):
            raise BadData(
                f"response compressed with {one_line(encoding)}, which was not requested",
                "make the proxy in front of the server honour Accept-Encoding",
            )
        length = response.content_length or 0
        if length <= self._max_response_bytes:
            length = 0
            async for piece in response.content.iter_any():
                length += len(piece)
                if length > self._max_response_bytes:
                    break
                yield piece
            else:
                return
        raise BadData(
            f"response longer than {self._max_response_bytes} bytes",
            "raise triton.max_reply_bytes or upstream.max_bytes if this length is expected",
        )

    async def close(self) -> None:
        """Closes all connections for good; never waits for a peer."""
        self._closed = True
        session, self._session = self._session, None  # first: no read may use it half closed
        self._worker.close()
        await self._resolver.close()
        if session is not None:
            await session.close()


def _status_text(status: int, location: str) -> str:
    redirects = 300 <= status < 400 and location
    return (
        f"HTTP {status} to {one_line(location_without_secrets(location))}"
        if redirects
        else f"HTTP {status}"
    )


def one_line(message: object) -> str:
    """Returns a server's message, or an exception's, as one line of at most 200 characters."""
    text = " ".join(str(message)[:1000].split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 200 else f"{text[:200]}…"
