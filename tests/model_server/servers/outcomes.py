"""Requests to the servers by outcome, and the outcome under which the exporter exports each.

What an engine counts was observed on its own page, request by request: many count a request that
the client cancelled as a success, and requests that they refuse early not at all.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.model_server.servers.peer import Peer
from tests.waiting import until

BAD, BROKEN, SLOW = -1, 13, 20
"""The numbers of apps/doubling.py."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One kind of request. counted: the exported outcome, None if the engine counts none.

    model: the label under which it is counted. beside: requests of other outcomes that it needs.
    times: how often the engine counts it.
    """

    name: str
    send: Callable[[Peer, str], object]
    counted: str | None
    model: str
    beside: Mapping[str, int] = field(default_factory=dict)
    times: int = field(default=1, kw_only=True)

    @property
    def expected(self) -> dict[tuple[str, str], float]:
        """Returns the increase of the exported counters, by model and outcome."""
        counts = Counter(self.beside)
        if self.counted is not None:
            counts[self.counted] += self.times
        return {(self.model, outcome): count for outcome, count in counts.items()}


def _posted(path: str, body: object, status: int = 200) -> Callable[[Peer, str], object]:
    return lambda peer, name: peer.client.post(name, path, body, status)


def _cancelled(path: str, body: object) -> Callable[[Peer, str], object]:
    """Hangs up while the model works; then the model goes on to its end."""

    def send(peer: Peer, name: str) -> None:
        peer.client.cancel(name, path, body, peer.gate.one_more())
        peer.gate.open()

    return send


@contextlib.contextmanager
def held(peer: Peer, count: int, *request: object) -> Iterator[None]:
    """Runs the block while requests, with these arguments of `post`, are inside the model.

    One after the other: of several that arrive at once Ray Serve rejects some.
    """
    threads = [
        threading.Thread(target=peer.client.post, args=request, daemon=True) for _ in range(count)
    ]
    for thread in threads:
        arrived = peer.gate.one_more()
        thread.start()
        until(arrived, "the request at the gate")
    yield
    for thread in threads:
        thread.join(30)


def _infer(number: float) -> dict[str, object]:
    return {"inputs": [{"name": "n", "shape": [1], "datatype": "FP64", "data": [number]}]}


_NOT_JSON = b'{"numbers": '


def fastapi() -> tuple[Outcome, ...]:
    path = "/double"

    def numbers(*numbers: float, stream: bool = False) -> dict[str, object]:
        return {"numbers": numbers, "stream": stream}

    def cancel_stream(peer: Peer, name: str) -> None:
        peer.client.cancel_streamed(name, path, numbers(1, 2, SLOW, stream=True))
        peer.gate.open()

    def broken_stream(peer: Peer, name: str) -> None:
        peer.client.post_broken(name, path, numbers(1, BROKEN, stream=True))

    return tuple(
        Outcome(name, send, counted, "")
        for name, send, counted in (
            ("good", _posted(path, numbers(1, 2)), "ok"),
            ("streamed", _posted(path, numbers(1, 2, stream=True)), "ok"),
            ("bad", _posted(path, numbers(BAD), 400), "error"),
            ("bad JSON", _posted(path, _NOT_JSON, 422), "error"),
            ("too long", _posted(path, numbers(1, 1, 1, 1, 1), 422), "error"),
            ("broken", _posted(path, numbers(BROKEN), 500), "error"),
            ("broken stream", broken_stream, "ok"),
            ("unknown path", _posted("/nowhere", {}, 404), "error"),
            ("cancelled", _cancelled(path, numbers(SLOW)), "ok"),
            ("cancelled stream", cancel_stream, "ok"),
        )
    )


def mlserver() -> tuple[Outcome, ...]:
    path = "/v2/models/doubling/infer"
    unknown = _posted("/v2/models/nowhere/infer", _infer(1), 404)
    return (
        *(
            Outcome(name, send, counted, "doubling")
            for name, send, counted in (
                ("good", _posted(path, _infer(1)), "ok"),
                ("streamed", _posted(f"{path}_stream", _infer(1)), "ok"),
                ("bad", _posted(path, _infer(BAD), 400), "error"),
                ("bad JSON", _posted(path, _NOT_JSON, 422), None),
                ("broken", _posted(path, _infer(BROKEN), 500), "error"),
                ("unknown path", _posted("/v2/nowhere", {}, 404), None),
                ("cancelled", _cancelled(path, _infer(SLOW)), "ok"),
            )
        ),
        Outcome("unknown model", unknown, "error", "nowhere"),
    )


def kserve() -> tuple[Outcome, ...]:
    path = "/v1/models/doubling:predict"
    unknown = _posted("/v1/models/nowhere:predict", {"instances": [1]}, 404)
    return tuple(
        Outcome(name, send, counted, "doubling")
        for name, send, counted in (
            ("good", _posted(path, {"instances": [1]}), "ok"),
            ("bad", _posted(path, {"instances": [BAD]}, 400), "error"),
            ("bad JSON", _posted(path, _NOT_JSON, 400), None),
            ("broken", _posted(path, {"instances": [BROKEN]}, 500), "error"),
            ("unknown path", _posted("/nowhere", {}, 404), None),
            ("unknown model", unknown, None),
            ("cancelled", _cancelled(path, {"instances": [SLOW]}), "ok"),
        )
    )


def bentoml() -> tuple[Outcome, ...]:
    """Requests of more than 4 seconds time out, and more than two at once are rejected.

    It does not notice that a client hangs up, except while it streams: the request ends at its
    timeout.
    """
    path = "/double"

    def cancelled(peer: Peer, name: str) -> None:
        peer.client.cancel(name, path, {"number": SLOW}, peer.gate.one_more())

    def cancel_stream(peer: Peer, name: str) -> None:
        body = {"numbers": [1, SLOW]}
        peer.client.cancel(name, "/stream", body, peer.gate.one_more(), streamed=True)

    def busy(peer: Peer, name: str) -> None:
        with held(peer, 2, "too slow", path, {"number": SLOW}, 504):
            peer.client.post(name, path, {"number": 1}, 429)

    return tuple(
        Outcome(name, send, counted, "Doubling", *beside)
        for name, send, counted, *beside in (
            ("good", _posted(path, {"number": 1}), "ok"),
            ("streamed", _posted("/stream", {"numbers": [1, 2]}), "ok"),
            ("bad", _posted(path, {"number": BAD}, 400), "error"),
            ("bad JSON", _posted(path, _NOT_JSON, 400), "error"),
            ("broken", _posted(path, {"number": BROKEN}, 500), "error"),
            ("too slow", _posted(path, {"number": SLOW}, 504), "error"),
            ("busy", busy, "rejected", {"error": 2}),
            ("unknown path", _posted("/nowhere", {}, 404), "error"),
            ("cancelled", cancelled, "error"),
            ("cancelled stream", cancel_stream, None),
        )
    )


def rayserve() -> tuple[Outcome, ...]:
    """Requests of more than 5 seconds time out; two run, and one more waits."""
    path = "/double"
    slow = {"numbers": [SLOW]}

    def busy(peer: Peer, name: str) -> None:
        with held(peer, 2, "too slow", path, slow, 408):
            arguments = ({408: "too slow", 503: name}, path, slow)
            threads = [
                threading.Thread(target=peer.client.post_any, args=arguments, daemon=True)
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)

    sends = {outcome.name: outcome.send for outcome in fastapi()}
    counted = {
        **{outcome.name: outcome.counted for outcome in fastapi()},
        "cancelled": "cancelled",
    }
    return (
        *(Outcome(name, sends[name], counted[name], "doubling") for name in sends),
        Outcome("too slow", _posted(path, slow, 408), "error", "doubling"),
        Outcome("busy", busy, "rejected", "doubling", {"error": 3}),
    )


OUTCOMES = {"fastapi": fastapi(), "mlserver": mlserver(), "kserve": kserve(), "bentoml": bentoml()}
