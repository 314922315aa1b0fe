"""Docker's SDK client, with bounds on the bytes, the chunks and the seconds of a reply.

The SDK alone reads a reply to its end, however long; its timeout applies to each read from the
socket; it builds Python objects of a whole reply; it keeps every cookie; and it keeps up to 25
connection pools, one per request path. Here one pool serves every path, a connection that fails to
open is closed, and so is an idle one that has received anything (urllib3's `is_connected`). A JSON
reply is returned as bytes, for json_reply.py, and a list in parts while it arrives. Blocking: used
only in a worker's thread.
"""

from __future__ import annotations

import http.cookiejar
import io
import socket
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from docker import APIClient
from docker.tls import TLSConfig
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.sources.containers.engine.api_types import Version
from exporter.sources.containers.engine.bounded_response import BoundedResponse
from exporter.sources.containers.engine.json_reply import decode_reply
from exporter.sources.containers.engine.sdk_errors import translate_errors
from exporter.sources.containers.settings import Settings

# Of one container: some 10 KiB usually; more with a large environment, or many block devices.
MAX_CONTAINER_REPLY_BYTES = 1 << 20
# Of any other reply, and of an error.
MAX_SHORT_REPLY_BYTES = 1 << 16
# Engines send chunks of 2 KiB and more; of a longer chunk each part that is read counts. One
# more may come with each KiB.
MAX_CHUNKS = 16_384
_MAX_BYTES = (("/json", MAX_CONTAINER_REPLY_BYTES), ("/stats", MAX_CONTAINER_REPLY_BYTES))
_PART_BYTES = 1 << 16
# Replaced by the engine's own version. With any version given, APIClient() sends no request.
_INITIAL_API_VERSION = "1.24"


def open_client(settings: Settings, timeout: float, max_connections: int = 1) -> EngineClient:
    """Returns a client that uses the engine's API version. Raises SourceError (sdk_errors.py)."""
    with translate_errors(f"connecting to the engine at {settings.socket or settings.base_url}"):
        client = EngineClient(settings, timeout, max_connections)
        try:
            client.negotiate_version()
        except BaseException:
            client.close()
            raise
    return client


class EngineClient(APIClient):
    """A client of one engine. The attribute `timeout` may be changed between calls.

    The constructor sends no request.
    """

    def __init__(self, settings: Settings, timeout: float, max_connections: int) -> None:
        super().__init__(
            base_url=settings.origin,
            version=_INITIAL_API_VERSION,
            timeout=timeout,  # type: ignore[arg-type]  # typed int; any number of seconds works
            tls=_tls(settings),
            max_pool_size=max_connections,
        )
        self.engine = Version(_INITIAL_API_VERSION)
        """The reply to GET /version."""
        self.max_redirects = 0  # an engine never redirects
        # No HTTP_PROXY, which the event stream does not use either, no .netrc; and
        # REQUESTS_CA_BUNDLE must not replace the engine's own CA.
        self.trust_env = False
        # No cookie of a reply is kept.
        self.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # Mounted in place of the SDK's own adapters, which have not opened a connection yet.
        if settings.socket is not None:
            self.mount("http+docker://", _SocketAdapter(settings.base_url, max_connections))
        else:
            for scheme in ("http://", "https://"):
                self.mount(scheme, _TcpAdapter(settings, max_connections))

    def negotiate_version(self) -> None:
        """Requests GET /version and uses that API version from then on.

        Raises BadData, and errors of the SDK.
        """
        reply: Any = self.version(api_version=False)
        self.engine = decode_reply(reply, Version, "the engine's version", Faults())
        self._version = self.engine.api

    def container_list(self) -> Generator[bytes, None, None]:
        """Yields the parts of GET /containers/json as they arrive, of running and stopped ones.

        The caller limits and closes them. Raises BadData, and errors of the SDK.
        """
        return self._parts("/containers/json", {"limit": -1, "all": 1, "size": 0, "trunc_cmd": 0})

    def disk_usage(self) -> Generator[bytes, None, None]:
        """Yields the parts of GET /system/df, as `container_list`."""
        return self._parts("/system/df", {})

    def _parts(self, path: str, parameters: dict[str, int]) -> Generator[bytes, None, None]:
        url = self._url(path)  # type: ignore[attr-defined]  # not in the stubs
        response = self._get(url, params=parameters, stream=True)  # type: ignore[attr-defined]  # not in the stubs
        try:
            self._raise_for_status(response)  # type: ignore[attr-defined]  # not in the stubs
            received = response.raw._original_response  # noqa: SLF001 - urllib3 has no other access
            for part in _stream(response):
                received.allow_more()
                yield part
        except BaseException:
            response.raw.close()
            raise

    def _result(self, response: requests.Response, json: bool = False, binary: bool = False) -> Any:
        """Returns a reply; JSON as bytes, as the SDK's calls pass it on. Raises APIError."""
        return super()._result(response, binary=json or binary)  # type: ignore[misc]  # not in the stubs


def _tls(settings: Settings) -> TLSConfig | bool:
    if not settings.tls:
        return False
    folder = Path(settings.docker_cert_path or "~/.docker").expanduser()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    has_client_certificate = certificate.exists() or key.exists()
    return TLSConfig(
        client_cert=(str(certificate), str(key)) if has_client_certificate else None,
        ca_cert=str(folder / "ca.pem") if settings.docker_tls_verify else None,
        verify=settings.docker_tls_verify,
    )


class _SocketConnection(UnixHTTPConnection):
    response_class = BoundedResponse

    def connect(self) -> None:
        """Connects; closes the socket if that fails."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _SocketPool(UnixHTTPConnectionPool):
    def _new_conn(self) -> HTTPConnection:
        return _SocketConnection(self.base_url, self.socket_path)


class _SocketAdapter(UnixHTTPAdapter):
    """One connection pool for every path; the SDK's adapter has one per path."""

    def __init__(self, socket_url: str, max_pool_size: int) -> None:
        super().__init__(socket_url.replace("unix://", "http+unix://"), max_pool_size=max_pool_size)
        self._pool = _SocketPool("http+docker://localhost", self.socket_path, maxsize=max_pool_size)

    def get_connection(self, url: bytes | str, proxies: Any = None) -> UnixHTTPConnectionPool:
        return self._pool

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # options are passed through
        return _send_bounded(super().send, request, options)

    def close(self) -> None:
        self._pool.close()
        super().close()


class _TcpConnection(HTTPConnection):
    """A connection to the address as the settings have it.

    requests and urllib3 change a path that is not written as they would write it, and refuse the
    zone of an IPv6 address.
    """

    response_class = BoundedResponse

    def __init__(self, *arguments: Any, settings: Settings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._settings = settings

    def connect(self) -> None:
        named, self.host = self.host, self._settings.host
        try:
            super().connect()
        finally:
            self.host = named

    def putrequest(self, method: str, url: str, *arguments: Any, **options: Any) -> None:
        super().putrequest(method, self._settings.target(url), *arguments, **options)


class _TlsConnection(_TcpConnection, HTTPSConnection):
    def connect(self) -> None:
        self.server_hostname = self.server_hostname or self.host
        super().connect()


class _TcpPool(HTTPConnectionPool):
    def __init__(self, *arguments: Any, settings: Settings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionCls = partial(_TcpConnection, settings=settings)  # type: ignore[assignment]  # typed as a class; it is only called


class _TlsPool(HTTPSConnectionPool):
    def __init__(self, *arguments: Any, settings: Settings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ConnectionCls = partial(_TlsConnection, settings=settings)  # type: ignore[assignment]  # typed as a class; it is only called


class _TcpAdapter(HTTPAdapter):
    def __init__(self, settings: Settings, max_pool_size: int) -> None:
        self._settings = settings
        super().__init__(pool_maxsize=max_pool_size)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": partial(_TcpPool, settings=self._settings),
            "https": partial(_TlsPool, settings=self._settings),
        }

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # options are passed through
        return _send_bounded(super().send, request, options)


def _send_bounded(
    send: Callable[..., requests.Response], request: requests.PreparedRequest, options: Any
) -> requests.Response:
    """Sends the request and reads its reply, within the bytes of its path, or returns it unread.

    The timeout is that of the whole reply (BoundedResponse). Raises BadData for a longer reply.
    """
    # Engines do not compress. An unsolicited Content-Encoding is not decoded: it may be a bomb.
    request.headers["Accept-Encoding"] = "identity"
    response = send(request, **{**options, "stream": True})
    if options.get("stream") and response.status_code == 200:
        return response
    try:
        max_bytes = _max_bytes(request.url or "") if response.ok else MAX_SHORT_REPLY_BYTES
        body = _read_body(_stream(response), max_bytes)
    except BaseException:
        response.raw.close()
        raise
    response.raw = HTTPResponse(
        io.BytesIO(body),
        headers={"Content-Type": "application/json"},
        status=response.status_code,
        preload_content=False,
    )
    response.encoding = "utf-8"  # or requests detects it after an invalid byte, which is slow
    return response


def _stream(response: requests.Response) -> Iterator[bytes]:
    """Yields the body as it arrives. Raises BadData for too many chunks."""
    length = 0
    for number, part in enumerate(response.raw.stream(_PART_BYTES, decode_content=False)):
        length += len(part)
        if number >= MAX_CHUNKS + (length >> 10):
            raise BadData(f"the engine's reply has more than {number} chunks")
        yield part


def _max_bytes(url: str) -> int:
    path = urlsplit(url).path
    return next((limit for end, limit in _MAX_BYTES if path.endswith(end)), MAX_SHORT_REPLY_BYTES)


def _read_body(parts: Iterator[bytes], max_bytes: int) -> bytes:
    """Returns the body. Raises BadData."""
    body = bytearray()
    for part in parts:
        body += part
        if len(body) > max_bytes:
            raise BadData(f"the engine's reply is longer than {max_bytes >> 10} KiB")
    return bytes(body)
