"""docker's SDK client, with bounds on what a reply may take: bytes, and seconds.

The SDK reads a reply to its end, however long; its timeout is for each read from the socket; and
it keeps up to 25 connections, one for each path asked for. Here one pool serves every path, and a
connection that fails to open is closed. Blocking: used only in a worker's thread.
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
from exporter.sources.containers.engine.api_types import Version, checked
from exporter.sources.containers.engine.sdk_errors import translated
from exporter.sources.containers.settings import Settings

# Some 3,000 containers with many labels. The JSON of a reply is parsed in one go, during which no
# other thread runs: at this length for less than a tenth of a second.
MAX_REPLY = 8 << 20


class EngineClient(APIClient):
    """Talks to one engine in the version of the API that the engine speaks.

    Raises SourceError: see failures.py. The attribute `timeout` may be changed between calls.
    """

    def __init__(self, settings: Settings, timeout: float, connections: int = 1) -> None:
        with translated(f"connecting to the engine at {settings.socket or settings.base_url}"):
            super().__init__(
                base_url=settings.base_url,
                version="1.24",  # any: with a version given, this makes no call yet
                tls=_tls(settings),
                max_pool_size=connections,
            )
            try:
                self._prepare(settings, timeout, connections)
            except BaseException:
                self.close()
                raise

    def _prepare(self, settings: Settings, timeout: float, connections: int) -> None:
        self.timeout = timeout  # type: ignore[assignment]  # typed int; any number of seconds is taken
        self.max_redirects = 0  # an engine sends nobody elsewhere
        if settings.socket is not None:
            adapter = _SocketAdapter(settings.base_url, max_pool_size=connections)
            self._custom_adapter: HTTPAdapter = adapter  # the SDK closes it; its own never opened
            self.mount("http+docker://", adapter)
        else:
            for scheme in ("http://", "https://"):
                self.mount(scheme, _NetworkAdapter(pool_maxsize=connections))
        reply = self.version(api_version=False)
        self.engine = checked(reply, Version, "the engine's version")
        self._version = self.engine.api

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """As requests has it, but REQUESTS_CA_BUNDLE does not outdo the engine's own authority."""
        given = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, given, cert)


def _tls(settings: Settings) -> TLSConfig | bool:
    if not settings.tls:
        return False
    folder = Path(settings.docker_cert_path or "~/.docker").expanduser()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    own = certificate.exists() or key.exists()
    return TLSConfig(
        client_cert=(str(certificate), str(key)) if own else None,
        ca_cert=str(folder / "ca.pem") if settings.docker_tls_verify else None,
        verify=settings.docker_tls_verify,
    )


class _SocketConnection(UnixHTTPConnection):
    def connect(self) -> None:
        """Connect, or leave nothing open."""
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
    """One pool for every path, where the SDK has one for each."""

    def __init__(self, socket_url: str, max_pool_size: int) -> None:
        super().__init__(socket_url.replace("unix://", "http+unix://"), max_pool_size=max_pool_size)
        self._pool = _SocketPool("http+docker://localhost", self.socket_path, maxsize=max_pool_size)

    def get_connection(self, url: bytes | str, proxies: Any = None) -> UnixHTTPConnectionPool:
        return self._pool

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # options are passed on as they come
        return _bounded(super().send, request, options)

    def close(self) -> None:
        self._pool.close()
        super().close()


class _NetworkAdapter(HTTPAdapter):
    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # options are passed on as they come
        return _bounded(super().send, request, options)


def _bounded(
    send: Callable[..., requests.Response], request: requests.PreparedRequest, options: Any
) -> requests.Response:
    """Send, and read the reply within the request's timeout and MAX_REPLY bytes.

    Raises BadData where it is longer, requests' ReadTimeout where it takes longer.
    """
    timeout = options["timeout"]
    end = time.monotonic() + timeout
    # An engine compresses nothing; what does so uninvited is not unpacked (it may be a bomb).
    request.headers["Accept-Encoding"] = "identity"
    response = send(request, **{**options, "stream": True})
    try:
        body = _body(response.raw.stream(1 << 16, decode_content=False), end)
    except BaseException:
        response.raw.close()
        raise
    response.raw = HTTPResponse(
        io.BytesIO(body),
        headers={"Content-Type": "application/json"},
        status=response.status_code,
        preload_content=False,
    )
    response.encoding = "utf-8"  # else requests guesses it where a byte is wrong, at great length
    return response


def _body(chunks: Iterator[bytes], end: float) -> bytes:
    """The whole body, if it is not too long and is had by `end` (on time.monotonic's clock)."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > MAX_REPLY:
            raise BadData(f"the engine's reply is longer than {MAX_REPLY >> 20} MiB")
        if time.monotonic() > end:
            raise requests.exceptions.ReadTimeout("the reply takes too long")
    return bytes(body)
