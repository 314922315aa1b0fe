"""Errors for HTTP statuses of a Triton server."""

from __future__ import annotations

from exporter.errors import BadData, Forbidden, SourceError, Unreachable, Unsupported
from exporter.http_client.client import BadRequest

RESTRICTED = "the server, or a proxy in front of it, restricts this call"


def error_for_status(status: str, message: str) -> SourceError:
    """Returns the error for a status other than 200. message: the server's, on one line."""
    text = f"HTTP {status}: {message}"
    match status:
        case "401" | "403":
            return Forbidden(text, RESTRICTED)
        case "404" | "405" | "501":
            return Unsupported(text, "is this the HTTP port of a Triton server?")
        case "400":
            return BadRequest(text)
        case _ if status.startswith("3"):
            return Unsupported(text, "redirects are not followed: configure the target address")
        case _ if status.startswith("5"):
            return Unreachable(text, "see the log of the server, or of a proxy in front of it")
        case _:
            return BadData(text)
