"""Docker's SDK client, with bounds on the bytes and the seconds of a reply.

The SDK alone reads a reply to its end, however long; its timeout applies to each read from the
socket; and it keeps up to 25 connection pools, one per request path. Here one pool serves every
path, and a connection that fails to open is closed. Blocking: used only in a worker's thread.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from docker import APIClient
from docker.tls import TLSConfig
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection

from exporter.errors import BadData
from exporter.sources.containers.engine.api_types import Version, validate
from exporter.sources.containers.engine.sdk_errors import translate_errors
from exporter.sources.containers.settings import Settings

# Some 3,000 containers with many labels. The JSON of a reply is parsed in one go, during which no
# other thread runs: at this length for less than a tenth of a second.
MAX_REPLY_BYTES = 8 << 20
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
            base_url=settings.base_url,
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
        # Mounted in place of the SDK's own adapters, which have not opened a connection yet.
        if settings.socket is not None:
            self.mount("http+docker://", _SocketAdapter(settings.base_url, max_connections))
        else:
            for scheme in ("http://", "https://"):
                self.mount(scheme, _TcpAdapter(pool_maxsize=max_connections))

    def negotiate_version(self) -> None:
        """Requests GET /version and uses that API version from then on.

        Raises BadData, and errors of the SDK.
        """
        reply = self.version(api_version=False)
        self.engine = validate(reply, Version, "the engine's version")
        self._version = self.engine.api


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


class _TcpAdapter(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # options are passed through
        return _send_bounded(super().send, request, options)


def _send_bounded(
    send: Callable[..., requests.Response], request: requests.PreparedRequest, options: Any
) -> requests.Response:
    """Sends the request and reads its reply within the timeout and MAX_REPLY_BYTES.

    Raises BadData for a longer reply, requests' ReadTimeout for a slower one.
    """
    timeout = options["timeout"]
    deadline = time.monotonic() + timeout
    # Engines do not compress. An unsolicited Content-Encoding is not decoded: it may be a bomb.
    request.headers["Accept-Encoding"] = "identity"
    response = send(request, **{**options, "stream": True})
    try:
        body = _read_body(response.raw.stream(1 << 16, decode_content=False), deadline)
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


def _read_body(chunks: Iterator[bytes], deadline: float) -> bytes:
    """Returns the body. Raises BadData, ReadTimeout. deadline: on the time.monotonic() clock."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise BadData(f"the engine's reply is longer than {MAX_REPLY_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout("the reply takes too long")
    return bytes(body)
