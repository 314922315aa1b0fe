"""What a KServe v2 server says, as typed JSON, and what it comes to in our own values.

Unknown fields are passed over unbuilt and optional ones may be missing, as older servers lack
some. Whatever cannot be is a ValueError (msgspec's own included).
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.sources.triton.reading import (
    ZERO_DURATION,
    Batch,
    CumulativeDuration,
    InstanceGroup,
    ModelConfigSummary,
    ModelCounts,
    ModelMemory,
    Responses,
)

# Triton's numbers are uint64. (The bound cannot stand in Meta, which ends at int64.)
_LARGEST = (1 << 64) - 1
_BELOW_ZERO = 1 << 63
# Names are folder names of the model repository, or keys of an object store: never longer.
_LONGEST = 1024
# Of one model: a histogram's and a label's worth.
_MOST_BATCH_SIZES = 4096
_MOST_DEVICES = 256

# The parameter of a model's config.pbtxt by which its owner says what cannot be seen: that it is
# a BLS model, which calls others.
_KIND = "inference-exporter.kind"

Natural = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=_LONGEST)]


def uint64(number: int) -> int:
    if number > _LARGEST:
        raise ValueError("a number is larger than 64 bits hold")
    return number


def text(text: str) -> str:
    """A label value; raises ValueError where it cannot be one."""
    if "\0" in text:
        raise ValueError("a name holds a NUL")
    return text


def word(text: str) -> str:
    """One short word; raises ValueError where it is none."""
    text = text or "model"
    if len(text) > 32 or not text.replace("_", "").isalnum() or not text.isascii():
        raise ValueError("a kind is one word")
    return text.lower()


class DurationStat(msgspec.Struct, gc=False):
    count: Natural
    ns: Natural

    def timed(self) -> CumulativeDuration:
        return CumulativeDuration(uint64(self.count), uint64(self.ns))

    def computed(self) -> CumulativeDuration:
        """With a count that the server reckons as a difference, unsigned: see `statistics.py`."""
        timed = self.timed()
        return timed if timed.count < _BELOW_ZERO else CumulativeDuration(0, timed.ns)


class Stages(msgspec.Struct):
    success: DurationStat
    fail: DurationStat
    queue: DurationStat
    compute_input: DurationStat
    compute_infer: DurationStat
    compute_output: DurationStat
    cache_hit: DurationStat | None = None
    cache_miss: DurationStat | None = None


class BatchStats(msgspec.Struct):
    batch_size: Natural
    compute_infer: DurationStat
    compute_input: DurationStat | None = None
    compute_output: DurationStat | None = None

    def batch(self) -> Batch:
        return Batch(
            uint64(self.batch_size),
            self.compute_input.timed() if self.compute_input else ZERO_DURATION,
            self.compute_infer.timed(),
            self.compute_output.timed() if self.compute_output else ZERO_DURATION,
        )


class ResponseStats(msgspec.Struct, gc=False):
    """The responses of one index: the first of each request, the second, and so on."""

    compute_infer: DurationStat
    compute_output: DurationStat
    success: DurationStat
    fail: DurationStat
    empty_response: DurationStat | None = None
    cancel: DurationStat | None = None


class MemoryUsage(msgspec.Struct):
    type: Annotated[str, Meta(max_length=64)]
    id: Annotated[int, Meta(ge=-1, le=1 << 31)]
    byte_size: Natural


class ModelStats(msgspec.Struct):
    name: Text
    version: Text
    inference_count: Natural
    execution_count: Natural
    inference_stats: Stages
    last_inference: Natural = 0
    batch_stats: Annotated[tuple[BatchStats, ...], Meta(max_length=_MOST_BATCH_SIZES)] = ()
    response_stats: dict[str, ResponseStats] = {}
    memory_usage: Annotated[tuple[MemoryUsage, ...], Meta(max_length=_MOST_DEVICES)] = ()

    def counts(self) -> ModelCounts:
        stages = self.inference_stats
        batches = {batch.batch_size: batch.batch() for batch in self.batch_stats}
        if len(batches) != len(self.batch_stats):
            raise ValueError("a batch size is listed twice")
        return ModelCounts(
            inference_count=uint64(self.inference_count),
            execution_count=uint64(self.execution_count),
            success=stages.success.timed(),
            fail=stages.fail.timed(),
            queue=stages.queue.timed(),
            compute_input=stages.compute_input.computed(),
            compute_infer=stages.compute_infer.computed(),
            compute_output=stages.compute_output.computed(),
            cache_hit=stages.cache_hit.timed() if stages.cache_hit else None,
            cache_miss=stages.cache_miss.timed() if stages.cache_miss else None,
            batches=tuple(batches[size] for size in sorted(batches)),
            last_inference=uint64(self.last_inference),
            responses=_responses(self.response_stats),
            memory=self._memory(),
        )

    def _memory(self) -> tuple[ModelMemory, ...]:
        """Bytes by device; several entries of one device are taken together."""
        sums: dict[tuple[str, int], int] = {}
        for each in self.memory_usage:
            key = (text(each.type), each.id)
            sums[key] = sums.get(key, 0) + uint64(each.byte_size)
        return tuple(ModelMemory(*key, size) for key, size in sums.items())


def _responses(by_index: dict[str, ResponseStats]) -> Responses | None:
    """All indexes together: an index is a place in a stream, one for each token perhaps."""
    if not by_index:
        return None
    success = fail = empty = cancel = infers = infer_ns = outputs = output_ns = 0
    for each in by_index.values():
        success += each.success.count
        fail += each.fail.count
        infers += each.compute_infer.count
        infer_ns += each.compute_infer.ns
        outputs += each.compute_output.count
        output_ns += each.compute_output.ns
        if each.empty_response is not None:
            empty += each.empty_response.count
        if each.cancel is not None:
            cancel += each.cancel.count
    return Responses(
        uint64(success),
        uint64(fail),
        uint64(empty),
        uint64(cancel),
        CumulativeDuration(uint64(infers), uint64(infer_ns)),
        CumulativeDuration(uint64(outputs), uint64(output_ns)),
    )


class IndexEntry(msgspec.Struct):
    name: Text
    version: Annotated[str, Meta(max_length=_LONGEST)] = ""
    state: str | None = None


class InstanceGroupConfig(msgspec.Struct):
    kind: str = "KIND_AUTO"
    count: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    gpus: Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 20)], ...], Meta(max_length=256)] = ()

    def instances(self) -> InstanceGroup:
        kind = word(self.kind.removeprefix("KIND_")).upper()
        return InstanceGroup(kind, self.count, tuple(dict.fromkeys(self.gpus)))


class Present(msgspec.Struct):
    """Something of which only matters that it is there."""


class Policy(msgspec.Struct):
    decoupled: bool = False


class Parameter(msgspec.Struct):
    string_value: str = ""


class ModelConfig(msgspec.Struct):
    platform: Annotated[str, Meta(max_length=_LONGEST)] = ""
    backend: Annotated[str, Meta(max_length=_LONGEST)] = ""
    max_batch_size: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    instance_group: Annotated[tuple[InstanceGroupConfig, ...], Meta(max_length=1024)] = ()
    ensemble_scheduling: Present | None = None
    model_transaction_policy: Policy | None = None
    parameters: dict[str, Parameter] = {}

    def config(self) -> ModelConfigSummary:
        """Raises ValueError."""
        ensemble = self.platform == "ensemble" or self.ensemble_scheduling is not None
        told = self.parameters.get(_KIND, Parameter()).string_value
        policy = self.model_transaction_policy
        return ModelConfigSummary(
            text(self.platform),
            text(self.backend),
            self.max_batch_size,
            "ensemble" if ensemble else word(told),
            decoupled=policy is not None and policy.decoupled,
            groups=tuple(group.instances() for group in self.instance_group),
        )


class ServerMetadata(msgspec.Struct):
    name: Text
    version: Text
    extensions: list[str]
