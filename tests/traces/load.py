"""Load on a real Triton with a known plan, timed by the client's own clock."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


def plan(count: int, milliseconds: float, seed: int = 1) -> list[float]:
    """Returns the work of each request: log-normal around the milliseconds, in a fixed order.

    The quantiles are those of the distribution, whatever the count; only the order is random.
    """
    from statistics import NormalDist  # noqa: PLC0415 - beside its use

    normal = NormalDist(0, 0.5)
    values = [
        milliseconds * 2.718281828 ** normal.inv_cdf((place + 0.5) / count)
        for place in range(count)
    ]
    random.Random(seed).shuffle(values)  # noqa: S311 - an order
    return values


@dataclass(slots=True)
class Client:
    """One connection. seconds: latencies by model, in order."""

    url: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def send(self, requests: Iterable[tuple[str, float]], traceparent: str = "") -> None:
        """Sends requests one after the other: model, and milliseconds to work."""
        connection = http.client.HTTPConnection(self.url, timeout=30)
        headers = {"traceparent": traceparent} if traceparent else {}
        try:
            for model, milliseconds in requests:
                tensor = {
                    "name": "VALUE",
                    "shape": [1, 1],
                    "datatype": "FP32",
                    "data": [milliseconds],
                }
                body = json.dumps({"inputs": [tensor]})
                started = time.perf_counter()
                connection.request("POST", f"/v2/models/{model}/infer", body, headers)
                response = connection.getresponse()
                content = response.read()
                took = time.perf_counter() - started
                assert response.status == (200 if milliseconds >= 0 else 500), content
                self.seconds.setdefault(model, []).append(took)
        finally:
            connection.close()


def alternating(**plans: Sequence[float]) -> list[tuple[str, float]]:
    """Returns the requests of the models in turn, until each plan is done."""
    longest = max(map(len, plans.values()))
    return [
        (model, values[place])
        for place in range(longest)
        for model, values in plans.items()
        if place < len(values)
    ]


def quantile(values: Iterable[float], q: float) -> float:
    """Returns the value at a rank, 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def histogram_quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Returns PromQL's histogram_quantile of (upper bound, cumulative count), the last +Inf."""
    rank = q * buckets[-1][1]
    below, lower = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = max(below, count), bound
    return lower
