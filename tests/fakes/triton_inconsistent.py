"""Model of a Triton server with torn reads: it writes statistics field by field during requests.

It knows the true times of every request, as a reference for values computed from its snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.sources.triton.reading import Batch, CumulativeDuration, ModelCounts

ZERO = CumulativeDuration(0, 0)
# In the order of the server's response.
FIELDS = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


@dataclass(frozen=True)
class Request:
    """Times of one request in nanoseconds. hit: served from the cache. failed: by the model."""

    queue: int = 0
    compute_input: int = 0
    compute_infer: int = 0
    compute_output: int = 0
    cache: int = 0
    overhead: int = 0
    hit: bool = False
    failed: bool = False

    @property
    def total(self) -> int:
        stages = 0 if self.hit else self.compute_input + self.compute_infer + self.compute_output
        return self.queue + stages + self.cache + self.overhead


@dataclass
class TornServer:
    """The server. done: requests completed since the model was loaded."""

    done: list[Request] = field(default_factory=list)

    def snapshot(self, between: Callable[[], list[Request]] = list) -> ModelCounts:
        """Returns statistics; `between` returns requests that complete before each field."""
        executions = sum(not request.hit for request in self.done)
        values: dict[str, CumulativeDuration] = {}
        for name in FIELDS:
            self.done += between()
            values[name] = self._duration(name)
        self.done += between()
        batches = (Batch(1, ZERO, CumulativeDuration(executions, 0), ZERO),) if executions else ()
        return ModelCounts(
            inference_count=executions,
            execution_count=executions,
            batches=batches,
            last_inference=len(self.done),
            **values,  # type: ignore[arg-type]  # the fields of FIELDS are all of this type
        )

    def _duration(self, name: str) -> CumulativeDuration:
        good = [request for request in self.done if not request.failed]
        if name == "success":
            return CumulativeDuration(len(good), sum(request.total for request in good))
        if name == "fail":
            return CumulativeDuration(len(self.done) - len(good), 0)
        if name == "queue":
            return CumulativeDuration(len(good), sum(request.queue for request in good))
        if name in ("cache_hit", "cache_miss"):
            hit = name == "cache_hit"
            cached = [request for request in good if request.hit is hit and request.cache]
            return CumulativeDuration(len(cached), sum(request.cache for request in cached))
        computed = [request for request in good if not request.hit]
        nanoseconds = sum(getattr(request, name) for request in computed)
        return CumulativeDuration(len(computed), nanoseconds)
