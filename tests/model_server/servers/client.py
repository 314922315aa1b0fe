"""A client with a ledger: what it sent to a model server, by outcome."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.waiting import until


class Answered(AssertionError):
    """The response to a request came before the request was seen in progress."""


@dataclass(eq=False)
class Ledger:
    """The sent requests by outcome, and the tokens that the responses report."""

    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Part of prompt_tokens."""
    generated_tokens: int = 0


@dataclass(eq=False)
class Client:
    """Sends requests to `address`, each over a connection of its own."""

    address: str
    ledger: Ledger = field(default_factory=Ledger)

    def post(self, outcome: str, path: str, body: object, status: int = 200) -> bytes:
        """Sends a request, reads the whole response and enters it; asserts its status."""
        with self._sent(path, body) as response:
            content = response.read()
        assert response.status == status, (path, body, response.status, content)
        self.ledger.requests[outcome] += 1
        return content

    def post_any(self, outcomes: Mapping[int, str], path: str, body: object) -> None:
        """Sends a request, reads the whole response and enters it by its status."""
        with self._sent(path, body) as response:
            response.read()
        self.ledger.requests[outcomes[response.status]] += 1

    def post_broken(self, outcome: str, path: str, body: object) -> None:
        """Sends a request whose streamed response ends before its end."""
        with self._sent(path, body) as response:
            assert response.status == 200
            try:
                content = response.read()
            except http.client.IncompleteRead:
                self.ledger.requests[outcome] += 1
                return
        raise AssertionError(f"a whole response: {content!r}")

    def complete(self, outcome: str, path: str, body: dict[str, Any]) -> None:
        """Sends an OpenAI request, streamed or not; enters the tokens that its usage reports."""
        if body.get("stream"):
            body = {**body, "stream_options": {"include_usage": True}}
        content = self.post(outcome, path, body)
        if body.get("stream"):
            events = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: {")]
            usages = [json.loads(event).get("usage") for event in events]
            (usage,) = [usage for usage in usages if usage]
        else:
            usage = json.loads(content)["usage"]
        self.ledger.prompt_tokens += usage["prompt_tokens"]
        self.ledger.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        self.ledger.generated_tokens += usage["completion_tokens"]

    def cancel(
        self,
        outcome: str,
        path: str,
        body: object,
        in_progress: Callable[[], object],
        *,
        streamed: bool = False,
    ) -> None:
        """Sends a request, and hangs up as soon as the server has it in progress.

        Raises Answered if the response comes earlier, unless it is streamed.
        """
        request = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self.address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(request)}\r\n\r\n"
        )
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(head.encode() + request)

            def begun() -> bool:
                if in_progress():
                    return True
                if not streamed and select.select([connection], [], [], 0)[0]:
                    raise Answered(path)
                return False

            until(begun, f"{path} in progress", seconds=30)
        self.ledger.requests[outcome] += 1

    def cancel_streamed(self, outcome: str, path: str, body: object, pieces: int = 2) -> None:
        """Sends a request, and hangs up after some pieces of its streamed response."""
        with self._sent(path, body) as response:
            assert response.status == 200
            for _ in range(2 * pieces):  # each event ends with an empty line
                assert response.readline()
        self.ledger.requests[outcome] += 1

    @contextlib.contextmanager
    def _sent(self, path: str, body: object) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.address, timeout=30)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request("POST", path, content, {"Content-Type": "application/json"})
            yield connection.getresponse()
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate of apps/doubling.py, at which slow requests wait inside the server."""

    folder: Path

    def waiting(self) -> int:
        """Returns the number of requests that have arrived at the gate, ever."""
        return len(list(self.folder.glob("inside-*")))

    def one_more(self) -> Callable[[], bool]:
        """Returns a condition: one more request than now is at the gate."""
        before = self.waiting()
        return lambda: self.waiting() > before

    def open(self) -> None:
        """Ends the wait of the requests that have arrived."""
        for path in self.folder.glob("inside-*"):
            path.with_name(path.name.replace("inside-", "go-")).touch()

    @contextlib.contextmanager
    def holding(self, send: Callable[[], object]) -> Iterator[None]:
        """Runs the block while the request that `send` sends is inside the server."""
        arrived = self.one_more()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                send()
            except BaseException as error:  # noqa: BLE001 - raised in the test's thread below
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            until(lambda: arrived() or errors, "the request at the gate", seconds=30)
            yield
        finally:
            self.open()
            thread.join(30)
        assert not errors, errors
