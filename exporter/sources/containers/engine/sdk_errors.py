"""Translation of the errors of docker's SDK, and the libraries below it, to SourceError."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator

import docker.errors
import requests.exceptions as rq
import urllib3.exceptions as u3

from exporter.errors import (
    BadData,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    SourceError,
    Unreachable,
    Unsupported,
)
from exporter.http_client.address import location_without_secrets
from exporter.sources.containers.problems import SOCKET_PERMISSION_REMEDY

ENGINE_RUNNING_REMEDY = (
    "is Docker running here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another socket or Podman set DOCKER_HOST"
)
CERTIFICATES_REMEDY = "check DOCKER_CERT_PATH (ca.pem, cert.pem, key.pem) and DOCKER_TLS_VERIFY"
API_VERSION_REMEDY = (
    "the engine and this exporter support no common API version: upgrade the older one"
)

# In this order; each for the error itself before its causes.
_TRANSLATIONS: tuple[tuple[tuple[type[Exception], ...], type[SourceError], str], ...] = (
    ((TimeoutError, rq.Timeout, u3.TimeoutError), DeadlineExceeded, ""),
    ((PermissionError,), Forbidden, SOCKET_PERMISSION_REMEDY),
    ((ssl.SSLError, docker.errors.TLSParameterError), Unreachable, CERTIFICATES_REMEDY),
    ((docker.errors.InvalidVersion,), Unsupported, API_VERSION_REMEDY),
    (
        (
            ConnectionError,
            FileNotFoundError,
            http.client.RemoteDisconnected,
            http.client.IncompleteRead,
            u3.LocationValueError,
            rq.InvalidURL,
        ),
        Unreachable,
        ENGINE_RUNNING_REMEDY,
    ),
)
# A reply that is not HTTP, not JSON, or JSON of another shape than the SDK expects.
_INVALID_REPLY = (
    http.client.HTTPException,
    rq.JSONDecodeError,
    rq.TooManyRedirects,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
)


@contextlib.contextmanager
def translate_errors(action: str) -> Iterator[None]:
    """Raises every error inside as a SourceError whose message starts with the action."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # the SDK raises its own kinds and those of four libraries
        raise source_error(error, action) from error


def source_error(error: BaseException, action: str) -> SourceError:
    """Returns the SourceError for an error of the SDK, by its type and those of its causes."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, docker.errors.APIError) and cause.response is not None:
            return _by_status(cause, action)
        if isinstance(cause, rq.TooManyRedirects) and cause.response is not None:
            location = location_without_secrets(cause.response.headers.get("Location", ""))
            return BadData(
                f"{action}: HTTP {cause.response.status_code} to {one_line(location)}",
                "redirects are not followed: set DOCKER_HOST to the engine's own address",
            )
    for cause in chain:
        for types, translation, remedy in _TRANSLATIONS:
            if isinstance(cause, types):
                return translation(f"{action}: {one_line(cause)}", remedy)
    if any(isinstance(cause, _INVALID_REPLY) for cause in chain):
        return BadData(f"{action}: not a reply of a container engine: {one_line(chain[-1])}")
    return Unreachable(f"{action}: {one_line(error)}", ENGINE_RUNNING_REMEDY)


def _by_status(error: docker.errors.APIError, action: str) -> SourceError:
    status = error.status_code
    message = f"{action}: the engine returned {status}: {one_line(error.explanation or error)}"
    if status == 404:
        return NotFound(message)
    if status in (401, 403):
        return Forbidden(message, SOCKET_PERMISSION_REMEDY)
    if status in (400, 501):
        return Unsupported(message, API_VERSION_REMEDY)
    return Unreachable(message)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, its causes, and errors among their arguments; at most 20."""
    queue, count = [error], 0
    while queue and count < 20:
        if (current := queue.pop(0)) is None:
            continue
        count += 1
        yield current
        queue.append(current.__cause__ or current.__context__)
        queue.extend(argument for argument in current.args if isinstance(argument, BaseException))


def one_line(value: object) -> str:
    """Returns at most 200 printable characters: an error may contain a server's whole page."""
    text = " ".join(str(value)[:400].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:200]
