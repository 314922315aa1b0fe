"""Synthetic hosts: the GPUs, containers and models of each, and their values over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from exporter.registry import SOURCES

END = 1_760_000_400
HOURS = 3
SCRAPE_INTERVAL = 30
START = END - HOURS * 3600
WAVE_PERIOD = 3600.0
"""Seconds of a period of `wave`; a range of whole periods has an exact mean."""

ValueAt = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Model:
    """A model. requests: mean requests per second. failed: ratio. mean: seconds per request.

    queue: ratio of that time in the queue. batch: requests per execution.
    """

    server: str
    name: str
    version: str = "1"
    requests: float = 10.0
    failed: float = 0.0
    mean: float = 0.02
    queue: float = 0.2
    batch: float = 4.0
    gpus: tuple[int, ...] = (0,)

    @property
    def labels(self) -> tuple[str, ...]:
        return (self.server, self.name, self.version)


@dataclass(frozen=True, slots=True)
class Host:
    """A host. without: sources that are absent. failing: sources that are down."""

    instance: str
    job: str = "inference"
    gpus: int = 2
    mig: bool = False
    containers: tuple[str, ...] = ("triton", "api", "cache", "migrate")
    models: tuple[Model, ...] = ()
    without: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    number: int = 1
    scrape_interval: int = SCRAPE_INTERVAL

    def uuid(self, gpu: int) -> str:
        return f"GPU-{self.number:04d}{gpu:04d}-1111-2222-3333-444444444444"

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source.name for source in SOURCES if source.name not in self.without)


HOST_MODELS = (
    Model("triton", "wine", requests=20.0, failed=0.05, mean=0.04, queue=0.5),
    Model("triton", "digits", "1", requests=5.0, failed=0.0, mean=0.01, queue=0.1, batch=1.0),
    Model("triton", "digits", "2", requests=15.0, failed=0.001, mean=0.008, queue=0.1, gpus=(0, 1)),
    Model("triton", "idle", requests=0.0),
)
HOSTS = (
    Host("gpu-host-1:10400", models=HOST_MODELS, number=1),
    Host(
        "gpu-host-2:10400",
        mig=True,
        models=(*HOST_MODELS[:1], Model("second", "speech (en+de)", mean=0.5)),
        number=2,
    ),
    Host("cpu-1:10400", "edge", 0, models=HOST_MODELS[:2], without=("gpu", "joins"), number=3),
    Host("train-1:10400", "edge", without=("triton",), number=4),
    Host(
        "bare-1:10400",
        "edge",
        models=HOST_MODELS[:2],
        containers=(),
        without=("containers", "joins"),
        number=5,
    ),
    Host("sick-1:10400", "edge", models=HOST_MODELS[:1], failing=("gpu", "triton"), number=6),
)


CHAT_SERVER = "chat"
ASSISTANT = Model(CHAT_SERVER, "assistant", requests=10.0, failed=0.05)
"""The model of a vLLM, which each host with a Triton has, too."""


def wave(t: float, phase: float = 0.0) -> float:
    """Returns a sine wave between -1 and 1, with a period of one hour."""
    return math.sin(2 * math.pi * (t - START) / WAVE_PERIOD + phase)


def wave_integral(t: float, since: float = START) -> float:
    """Returns the integral of 1 + 0.3 wave(), a rate around 1, from `since` to t in seconds."""
    scale = 0.3 * WAVE_PERIOD / (2 * math.pi)
    return (t - since) + scale * (
        math.cos(2 * math.pi * (since - START) / WAVE_PERIOD)
        - math.cos(2 * math.pi * (t - START) / WAVE_PERIOD)
    )


RELOADED_AT = START + 7200.0
"""Time at which digits/2 of the first host was reloaded: its counters start at 0."""
UNREADY_RANGE = (START + 3600.0, START + 4500.0)
"""Time range in which digits/1 of the first host was not ready."""
THROTTLED_RANGE = (START + 5400.0, END + 1.0)
FAILING_SINCE = END - 1800.0
"""Time since which the model speech of the second host fails."""
FAILING_SHARE = 0.2
XID_AT = START + 8000.0


def counter_value(rate: float, model: Model | None, host: Host) -> ValueAt:
    """Returns a counter that rises by `rate` per second on average."""
    reloaded = model is not None and model.labels == ("triton", "digits", "2") and host.number == 1

    def value(t: float) -> float:
        return rate * wave_integral(t, RELOADED_AT if reloaded and t >= RELOADED_AT else START)

    return value


def constant(number: float) -> ValueAt:
    return lambda _: number
