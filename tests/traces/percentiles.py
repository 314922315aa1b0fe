"""Percentiles from traces beside the clock of the load generator: `make percentiles`.

    python -m tests.traces.percentiles [SECONDS]      per rate; prints a table

Three models that work for 2, 20 and 200 ms (log-normal), the first two alternating, at the trace
rates 1, 10 and 100.
"""

from __future__ import annotations

import math
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.traces.latency import BOUNDS
from tests.daemon import Samples, find, off, running
from tests.ports import free_port
from tests.sources.triton.server import Model, Server
from tests.traces.load import Client, alternating, histogram_quantile, plan, quantile
from tests.waiting import until

QUANTILES = (0.5, 0.9, 0.99)
# Standard errors of a rank that a sample may be off.
_DEVIATIONS = 3.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantile of a model: of the histogram, and of the client's clock, in seconds.

    samples: traced requests. low, high: quantiles of the planned work, and of the client's clock,
    at the ranks that so many samples may give: the client measures its own waiting too, which on a
    busy machine is the longest part of the slowest requests. rank: of the shown value among the
    client's.
    """

    model: str
    rate: int
    quantile: float
    shown: float
    measured: float
    low: float
    high: float
    samples: int
    rank: float

    @property
    def is_close(self) -> bool:
        """Whether it is within one bucket of what the samples can give.

        At least the planned work passes in the server, and no more time than the client measures.
        """
        return _bucket(self.low) - 1 <= _bucket(self.shown) <= _bucket(self.high) + 1

    @property
    def is_within_a_bucket(self) -> bool:
        """Whether it is within one bucket of the client's clock."""
        return abs(_bucket(self.shown) - _bucket(self.measured)) <= 1

    @property
    def expected_error(self) -> float:
        """The standard error of the rank."""
        return rank_error(self.quantile, self.samples)

    def text(self) -> str:
        return (
            f"{self.model:6} 1/{self.rate:<4} {self.samples:6} samples"
            f"  p{self.quantile * 100:<4.0f}"
            f" histogram {self.shown * 1e3:8.2f} ms  client {self.measured * 1e3:8.2f} ms"
            f"  rank {self.rank * 100:5.1f} (+-{self.expected_error * 100:.2f})"
            f"  {'within a bucket' if self.is_within_a_bucket else 'OFF'}"
        )


def rank_error(q: float, samples: int) -> float:
    """Returns the standard error of the rank of a quantile of a sample."""
    return math.sqrt(q * (1 - q) / max(1, samples))


def compare(
    samples: Samples, model: str, planned: Sequence[float], seconds: Sequence[float], rate: int
) -> Iterator[Comparison]:
    """Yields the comparisons of a model. planned: milliseconds. seconds: by the client's clock."""
    buckets = sorted(
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples.items()
        if name == "triton_request_latency_seconds_bucket"
        and {("model", model), ("stage", "request")} <= labels
    )
    traced = len(seconds) // rate
    ordered = sorted(seconds)
    for q in QUANTILES:
        margin = _DEVIATIONS * rank_error(q, traced) if rate > 1 else 0.0
        shown = histogram_quantile(q, buckets)
        yield Comparison(
            model,
            rate,
            q,
            shown,
            quantile(ordered, q),
            quantile(planned, max(0.0, q - margin)) / 1e3,
            quantile(ordered, min(1.0, q + margin)),
            traced,
            bisect_left(ordered, shown) / len(ordered),
        )


def _bucket(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


# -- the long form --

RATES = (1, 10, 100)
# Milliseconds of each model, and its instances, each with a client: no request waits in the queue.
WORK = {"fast": 2.0, "medium": 20.0, "slow": 200.0}
_ALTERNATING, _SLOW_CLIENTS = 4, 8
_CONFIG = (
    'backend: "python"\nmax_batch_size: 8\n'
    'input [{{ name: "VALUE" data_type: TYPE_FP32 dims: [ 1 ] }}]\n'
    'output [{{ name: "RESULT" data_type: TYPE_FP32 dims: [ 1 ] }}]\n'
    "instance_group [{{ kind: KIND_CPU count: {} }}]\n"
)


def tracing(port: int, *more: str) -> list[str]:
    """Returns the flags of a server that sends its traces to a port, once they are on."""
    settings = (
        "mode=opentelemetry",
        f"opentelemetry,url=http://127.0.0.1:{port}/v1/traces",
        "opentelemetry,bsp_schedule_delay=100",
        "level=OFF",
        *more,
    )
    return [part for setting in settings for part in ("--trace-config", setting)]


def measure(folder: Path, server: Server, port: int, rate: int, seconds: float) -> list[Comparison]:
    """Runs the load at a rate beside a new daemon; returns the comparisons."""
    folder.mkdir()
    flags = (
        *off("gpu", "containers", "joins", "upstream", "host", "model-server"),
        "--web.listen-address=127.0.0.1:0",
        f"--triton.url=here={server.url}",
        f"--traces.listen-address=127.0.0.1:{port}",
    )
    pairs, slow = int(seconds / 0.03), int(seconds / 0.23)
    plans = {
        place: (
            {"slow": plan(slow, WORK["slow"], place)}
            if place >= _ALTERNATING
            else {name: plan(pairs, WORK[name], place) for name in ("fast", "medium")}
        )
        for place in range(_ALTERNATING + _SLOW_CLIENTS)
    }
    clients = [Client(server.url) for _ in plans]
    with running(folder, *flags, development_mode=False) as daemon:
        until(lambda: daemon.value("triton_up"), "the server's statistics", seconds=60)
        for model in WORK:
            changes = {"trace_level": ["TIMESTAMPS"], "trace_rate": str(rate)}
            server.request("POST", f"/v2/models/{model}/trace/setting", changes)
        threads = [
            threading.Thread(target=client.send, args=(alternating(**plans[place]),))
            for place, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(15)  # the batches of the sender, and a poll
        samples = daemon.samples()
    sys.stdout.write(f"lost traces: {find(samples, 'triton_traces_lost_total'):g}\n")
    rows: list[Comparison] = []
    for model in WORK:
        planned = [value for place in plans.values() for value in place.get(model, ())]
        measured = [value for client in clients for value in client.seconds.get(model, ())]
        rows += compare(samples, model, planned, measured, rate)
    return rows


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    port = free_port()
    models = [
        Model(name, whole_config=_CONFIG.format(_SLOW_CLIENTS if name == "slow" else _ALTERNATING))
        for name in WORK
    ]
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with Server(folder / "triton", models, tracing(port)) as server:
            for rate in RATES:
                for row in measure(folder / str(rate), server, port, rate, seconds):
                    sys.stdout.write(f"{row.text()}\n")
                    sys.stdout.flush()
                    wrong += not row.is_close
    sys.exit(f"{wrong} quantiles are off" if wrong else 0)


if __name__ == "__main__":
    main()
