"""Errors for HTTP statuses of a Triton server."""

from __future__ import annotations

from exporter.errors import BadData, Forbidden, SourceError, Unreachable, Unsupported
from exporter.http_client.client import REDIRECT_REMEDY, BadRequest, HttpResponse

RESTRICTED = "the server, or a proxy in front of it, restricts this call"


def error_for_status(response: HttpResponse, message: str) -> SourceError:
    """Returns the error for a status other than 200. message: the server's, on one line."""
    text = f"{response.status_text}: {message}"
    match response.status:
        case 401 | 403:
            return Forbidden(text, RESTRICTED)
        case 404 | 405 | 501:
            return Unsupported(text, "is this the HTTP port of a Triton server?")
        case 400:
            return BadRequest(text)
        case status if 300 <= status < 400 and response.location:
            return Unsupported(response.status_text, REDIRECT_REMEDY)
        case status if status >= 500:
            return Unreachable(text, "see the log of the server, or of a proxy in front of it")
        case _:
            return BadData(text)
