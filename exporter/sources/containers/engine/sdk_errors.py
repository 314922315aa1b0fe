"""Every error that docker's SDK and the libraries below it raise, as the SourceError it means."""

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

IS_IT_RUNNING = (
    "is Docker running here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another place or Podman set DOCKER_HOST"
)
IS_IT_INSTALLED = (
    "is Docker installed here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another place or Podman set DOCKER_HOST"
)
ALLOW = (
    "run as root, or put the user in the socket's group (usually `docker`); mind that whoever may"
    " use the socket can become root on this host"
)
CERTIFICATES = "look at DOCKER_CERT_PATH (ca.pem, cert.pem, key.pem) and DOCKER_TLS_VERIFY"
UPGRADE = "the engine and this program speak no common version of the API: upgrade the older one"

# In this order; for the error itself before what led to it.
_MEANINGS: tuple[tuple[tuple[type[Exception], ...], type[SourceError], str], ...] = (
    ((TimeoutError, rq.Timeout, u3.TimeoutError), DeadlineExceeded, ""),
    ((PermissionError,), Forbidden, ALLOW),
    ((ssl.SSLError, docker.errors.TLSParameterError), Unreachable, CERTIFICATES),
    ((docker.errors.InvalidVersion,), Unsupported, UPGRADE),
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
        IS_IT_RUNNING,
    ),
)
# A reply that is no HTTP, no JSON, or JSON of another shape than the SDK takes for granted.
_NONSENSE = (
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
def translated(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into a SourceError that says what was being done."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # the SDK raises its own kinds and those of four libraries
        raise explain(error, what) from error


def explain(error: BaseException, what: str) -> SourceError:
    """The SourceError for an error of the SDK, judged by it and all that led to it."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, docker.errors.APIError) and each.response is not None:
            return _by_status(each, what)
    for each in chain:
        for kinds, meaning, remedy in _MEANINGS:
            if isinstance(each, kinds):
                return meaning(f"{what}: {short(each)}", remedy)
    if any(isinstance(each, _NONSENSE) for each in chain):
        return BadData(f"{what}: not an answer of a container engine: {short(chain[-1])}")
    return Unreachable(f"{what}: {short(error)}", IS_IT_RUNNING)


def _by_status(error: docker.errors.APIError, what: str) -> SourceError:
    status = error.status_code
    message = f"{what}: the engine answered {status}: {short(error.explanation or error)}"
    if status == 404:
        return NotFound(message)
    if status in (401, 403):
        return Forbidden(message, ALLOW)
    if status in (400, 501):
        return Unsupported(message, UPGRADE)
    return Unreachable(message)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and errors it holds as arguments; at most 20."""
    waiting, seen = [error], 0
    while waiting and seen < 20:
        if (each := waiting.pop(0)) is None:
            continue
        seen += 1
        yield each
        waiting.append(each.__cause__ or each.__context__)
        waiting.extend(part for part in each.args if isinstance(part, BaseException))


def short(thing: object) -> str:
    """One line of at most 200 characters: an error may hold the whole page a server sent."""
    text = " ".join(str(thing)[:400].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:200]
