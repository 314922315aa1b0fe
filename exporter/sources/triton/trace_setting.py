"""Requests of the trace extension: GET and POST /v2[/models/MODEL]/trace/setting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import quote

from exporter.errors import BadData, DeadlineExceeded, Forbidden, Unsupported
from exporter.http_client.client import HttpClient
from exporter.sources.triton.http_errors import RESTRICTED

# Seconds for one request, which the server answers from memory.
_TIMEOUT = 1.0
_MAX_SETTING_BYTES = 16 << 10


async def trace_setting(
    transport: HttpClient, model: str, changes: Mapping[str, object] | None
) -> bytes:
    """Returns the trace settings of a model as JSON; after these changes, if there are any.

    model: empty for the server's own. Raises Forbidden, Unsupported, BadData, DeadlineExceeded,
    Unreachable.
    """
    if "/" in model or model in (".", ".."):
        raise BadData("the model name is not the name of a folder")
    path = f"v2/models/{quote(model, safe='')}/trace/setting" if model else "v2/trace/setting"
    method, body = ("GET", None) if changes is None else ("POST", json.dumps(changes).encode())
    deadline = asyncio.get_running_loop().time() + _TIMEOUT
    try:
        async with asyncio.timeout_at(deadline), transport.memory(deadline) as share:
            response = await transport.request(share, method, path, body)
    except TimeoutError:
        raise DeadlineExceeded("no trace settings in time", "is the server paused?") from None
    if response.status in (401, 403):
        raise Forbidden(f"trace settings: HTTP {response.status}", RESTRICTED)
    if response.status != 200:
        raise Unsupported(f"trace settings: {response.status_text}", "is the model loaded?")
    if len(response.body) > _MAX_SETTING_BYTES:
        raise BadData("trace settings: not the response of a Triton server")
    return response.body
