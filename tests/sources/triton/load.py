"""A load on a real Triton server that knows what it sent.

Requests go one after the other, each an execution of its own (no dynamic batching happens), so
that every number the server counts can be told beforehand. It counts a moment after it answers:
`Server.await_counts` waits for that.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent and how it was answered.

    executions: of the model, failed ones included; inferences: items of successful requests.
    rejected: bad requests, which the server turns away and counts nowhere.
    seconds: as the client saw the successful requests, so never less than the server did.
    worked: seconds the model itself was told to work, so never more than the server saw.
    """

    successes: int = 0
    failures: int = 0
    rejected: int = 0
    inferences: int = 0
    seconds: float = 0.0
    worked: float = 0.0

    @property
    def requests(self) -> int:
        """Those that the server counts."""
        return self.successes + self.failures

    @property
    def executions(self) -> int:
        return self.requests

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.successes + other.successes,
            self.failures + other.failures,
            self.rejected + other.rejected,
            self.inferences + other.inferences,
            self.seconds + other.seconds,
            self.worked + other.worked,
        )


def send(
    url: str,
    model: str,
    *,
    good: int = 0,
    failing: int = 0,
    corrupt: int = 0,
    batch: int = 1,
    milliseconds: float = 1.0,
) -> Sent:
    """Send good requests of so many items, then failing and corrupt ones; wait for all answers.

    url: host:port of a server whose model is `model/`. Blocks. Raises AssertionError if an answer
    is not the expected one.
    """
    connection = http.client.HTTPConnection(url, timeout=30)
    try:
        sent = Sent()
        for _ in range(good):
            started = time.perf_counter()
            _ask(connection, model, [milliseconds] * batch, batch, expect=(200,))
            sent += Sent(
                successes=1,
                inferences=batch,
                seconds=time.perf_counter() - started,
                worked=milliseconds / 1000,
            )
        for _ in range(failing):
            _ask(connection, model, [-1.0] * batch, batch, expect=(500,))
            sent += Sent(failures=1)
        for _ in range(corrupt):
            _ask(connection, model, ["not a number"], 1, expect=(400, 500))
            sent += Sent(rejected=1)
        return sent
    finally:
        connection.close()


def _ask(
    connection: http.client.HTTPConnection,
    model: str,
    data: list[float] | list[str],
    batch: int,
    expect: tuple[int, ...],
) -> None:
    tensor = {"name": "VALUE", "shape": [batch, 1], "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]})
    connection.request("POST", f"/v2/models/{model}/infer", body)
    response = connection.getresponse()
    answer = response.read()
    assert response.status in expect, (response.status, answer)
