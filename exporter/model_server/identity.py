"""Identity of a server: version, model and context, by GET requests of its API, one a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from exporter.errors import SourceError
from exporter.http_client.client import HttpClient
from exporter.model_server.profile import Member, Profile
from exporter.worker import Worker

# Seconds between two requests to a server, and until a complete identity is requested again.
REQUEST_INTERVAL = 60.0
_REFRESH_SECONDS = 3600.0
_MAX_LENGTH = 128
_MAX_DOCUMENT_BYTES = 1 << 20


class Identity:
    """The members of one server's documents, requested in turn."""

    def __init__(self, profile: Profile, transport: HttpClient, worker: Worker) -> None:
        self._transport = transport
        self._worker = worker
        self._fields: dict[str, Member] = {}
        for name in ("model_name", "version", "context"):
            member: Member | None = getattr(profile, name)
            if member is not None:
                self._fields[name] = member
        self._paths = list(dict.fromkeys(member.path for member in self._fields.values()))
        self._next = 0
        self._due = float("-inf")
        self.values: dict[str, str] = {}

    def restart(self) -> None:
        """Requests all again, one a minute: the server may be another one."""
        self._next = 0

    @property
    def is_due(self) -> bool:
        """Whether `update` sends a request now."""
        return bool(self._paths) and time.monotonic() >= self._due

    async def update(self, seconds: float) -> None:
        """Sends the next request, if one is due. A failure leaves its members as they are."""
        if not self.is_due:
            return
        now = time.monotonic()
        path = self._paths[self._next % len(self._paths)]
        self._next += 1
        complete = self._next >= len(self._paths)
        self._due = now + (_REFRESH_SECONDS if complete else REQUEST_INTERVAL)
        document = await get_json(self._transport, path, seconds, self._worker)
        if document is None:
            return
        for name, member in self._fields.items():
            if member.path == path:
                self.values.pop(name, None)
                text = text_of(document, member.names)
                if text:
                    self.values[name] = text


async def get_json(transport: HttpClient, path: str, seconds: float, worker: Worker) -> Any:
    """Returns a JSON document; None if the server has none there within the given seconds."""
    with suppress(SourceError, TimeoutError):
        deadline = asyncio.get_running_loop().time() + seconds
        async with asyncio.timeout_at(deadline), transport.memory(deadline) as share:
            response = await transport.request(share, "GET", path.removeprefix("/"))
            if response.status == 200 and len(response.body) <= _MAX_DOCUMENT_BYTES:
                with suppress(msgspec.DecodeError, RecursionError):
                    return await worker.run(partial(msgspec.json.decode, response.body))
    return None


def text_of(document: Any, names: Sequence[str]) -> str:
    """Returns a member as text; empty if the document has none, or a long one."""
    for name in names:
        if isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        elif isinstance(document, dict) and name in document:
            document = document[name]
        else:
            return ""
    if isinstance(document, bool) or not isinstance(document, str | int):
        return ""
    text = str(document)
    return text if len(text) <= _MAX_LENGTH and text.isprintable() else ""
