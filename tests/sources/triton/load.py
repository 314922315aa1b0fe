"""Load on a real Triton server, with a record of the sent requests.

Requests are sequential, each a separate execution (without dynamic batching), so that the server's
counts are known in advance. The server counts shortly after it responds: `Server.await_counts`
waits for that.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """Sent requests and their results.

    executions: of the model, including failed ones. inferences: items of successful requests.
    rejected: bad requests, which the server does not count.
    seconds: of successful requests, measured by the client: never less than the server's.
    worked: seconds of requested work in the model: never more than the server's.
    """

    successes: int = 0
    failures: int = 0
    rejected: int = 0
    inferences: int = 0
    seconds: float = 0.0
    worked: float = 0.0

    @property
    def requests(self) -> int:
        """Requests that the server counts."""
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
    """Sends good requests of `batch` items, then failing and corrupt ones; waits for responses.

    url: host:port of a server with the model of `model/`. Blocks. Raises AssertionError for an
    unexpected response.
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
    content = response.read()
    assert response.status in expect, (response.status, content)
