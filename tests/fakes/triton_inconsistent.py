"""A server whose statistics are read as Triton's are: field by field, while requests end.

It knows every request's true times, so that what is made of its samples can be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.sources.triton.reading import Batch, CumulativeDuration, ModelCounts

NOTHING = CumulativeDuration(0, 0)
# In the order the server writes its reply.
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
    """One request's times in nanoseconds. hit: answered from the cache; failed: by the model."""

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
class Torn:
    """The server. Requests that ended so far, since the model was loaded."""

    done: list[Request] = field(default_factory=list)

    def sample(self, between: Callable[[], list[Request]] = list) -> ModelCounts:
        """Statistics; `between` gives the requests that end before each field is written."""
        executions = sum(not one.hit for one in self.done)
        values: dict[str, CumulativeDuration] = {}
        for name in FIELDS:
            self.done += between()
            values[name] = self._timed(name)
        self.done += between()
        batches = (
            (Batch(1, NOTHING, CumulativeDuration(executions, 0), NOTHING),) if executions else ()
        )
        return ModelCounts(
            inference_count=executions,
            execution_count=executions,
            batches=batches,
            last_inference=len(self.done),
            **values,  # type: ignore[arg-type]  # the fields of FIELDS are all of this type
        )

    def _timed(self, name: str) -> CumulativeDuration:
        good = [one for one in self.done if not one.failed]
        if name == "success":
            return CumulativeDuration(len(good), sum(one.total for one in good))
        if name == "fail":
            return CumulativeDuration(len(self.done) - len(good), 0)
        if name == "queue":
            return CumulativeDuration(len(good), sum(one.queue for one in good))
        if name in ("cache_hit", "cache_miss"):
            of = [one for one in good if one.hit is (name == "cache_hit") and one.cache]
            return CumulativeDuration(len(of), sum(one.cache for one in of))
        computed = [one for one in good if not one.hit]
        return CumulativeDuration(len(computed), sum(getattr(one, name) for one in computed))
