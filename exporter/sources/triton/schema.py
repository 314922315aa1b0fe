"""JSON schema of a KServe v2 server's responses, and their conversion to rows' values.

Unknown fields are skipped unparsed. Fields that older servers lack are optional. Invalid values
raise ValueError (msgspec's own errors included).
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

# Triton's numbers are uint64. (msgspec's Meta cannot express the bound: its limit is int64.)
_MAX_UINT64 = (1 << 64) - 1
# From here on, an unsigned difference has wrapped around below zero.
_WRAPPED = 1 << 63
# Names are directory names of the model repository, or keys of an object store: never longer.
_MAX_NAME_LENGTH = 1024
# Devices of all instance groups of a model together.
_MAX_GROUP_DEVICES = 1024
# Limits of one model's batch_stats and memory_usage.
MAX_BATCH_SIZES = 4096
_MAX_DEVICES = 256

# Parameter in a model's config.pbtxt that marks a BLS model (one that calls other models), which
# the rest of the configuration does not reveal.
_KIND_PARAMETER = "inference-exporter.kind"

Natural = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=_MAX_NAME_LENGTH)]


def uint64(number: int) -> int:
    if number > _MAX_UINT64:
        raise ValueError("a number exceeds 64 bits")
    return number


def label_value(text: str) -> str:
    """Returns the text. Raises ValueError if it cannot be a label value."""
    if "\0" in text:
        raise ValueError("a name contains a NUL")
    return text


def kind_label(text: str) -> str:
    """Returns the kind in lower case, by default `model`. Raises ValueError unless one word."""
    text = text or "model"
    if len(text) > 32 or not text.replace("_", "").isalnum() or not text.isascii():
        raise ValueError("a kind must be a single word")
    return text.lower()


class DurationStat(msgspec.Struct, gc=False):
    count: Natural
    ns: Natural

    def duration(self) -> CumulativeDuration:
        return CumulativeDuration(uint64(self.count), uint64(self.ns))

    def computed_duration(self) -> CumulativeDuration:
        """As `duration`, for counts that the server computes as an unsigned difference.

        A torn read can wrap it around below zero, which becomes 0: see `statistics.py`.
        """
        duration = self.duration()
        return duration if duration.count < _WRAPPED else CumulativeDuration(0, duration.ns)


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
            self.compute_input.duration() if self.compute_input else ZERO_DURATION,
            self.compute_infer.duration(),
            self.compute_output.duration() if self.compute_output else ZERO_DURATION,
        )


class ResponseStats(msgspec.Struct, gc=False):
    """Statistics of one response index: the first response of each request, the second, ..."""

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
    batch_stats: Annotated[tuple[BatchStats, ...], Meta(max_length=MAX_BATCH_SIZES)] = ()
    response_stats: dict[str, ResponseStats] = {}
    memory_usage: Annotated[tuple[MemoryUsage, ...], Meta(max_length=_MAX_DEVICES)] = ()

    def counts(self, responses: Responses | None = None) -> ModelCounts:
        """Raises ValueError. responses: the sums, if `response_stats` was decoded apart."""
        stages = self.inference_stats
        batches = {batch.batch_size: batch.batch() for batch in self.batch_stats}
        if len(batches) != len(self.batch_stats):
            raise ValueError("a batch size is listed twice")
        return ModelCounts(
            inference_count=uint64(self.inference_count),
            execution_count=uint64(self.execution_count),
            success=stages.success.duration(),
            fail=stages.fail.duration(),
            queue=stages.queue.duration(),
            compute_input=stages.compute_input.computed_duration(),
            compute_infer=stages.compute_infer.computed_duration(),
            compute_output=stages.compute_output.computed_duration(),
            cache_hit=stages.cache_hit.duration() if stages.cache_hit else None,
            cache_miss=stages.cache_miss.duration() if stages.cache_miss else None,
            batches=tuple(batches[size] for size in sorted(batches)),
            last_inference=uint64(self.last_inference),
            responses=responses or self._responses(),
            memory=self._memory(),
        )

    def _responses(self) -> Responses | None:
        sums = ResponseSums()
        sums.add(self.response_stats)
        return sums.total()

    def _memory(self) -> tuple[ModelMemory, ...]:
        """Returns bytes by device, the sum of a device's entries."""
        sums: dict[tuple[str, int], int] = {}
        for usage in self.memory_usage:
            key = (label_value(usage.type), usage.id)
            sums[key] = sums.get(key, 0) + uint64(usage.byte_size)
        return tuple(ModelMemory(*key, size) for key, size in sums.items())


class ResponseSums:
    """Sums over all indexes: an index is a position in the stream, such as one per token."""

    def __init__(self) -> None:
        self._success = self._fail = self._empty = self._cancel = 0
        self._infers = self._infer_ns = self._outputs = self._output_ns = 0
        self._indexes = 0

    def add(self, by_index: dict[str, ResponseStats]) -> None:
        """Adds indexes."""
        self._indexes += len(by_index)
        for stats in by_index.values():
            self._success += stats.success.count
            self._fail += stats.fail.count
            self._infers += stats.compute_infer.count
            self._infer_ns += stats.compute_infer.ns
            self._outputs += stats.compute_output.count
            self._output_ns += stats.compute_output.ns
            if stats.empty_response is not None:
                self._empty += stats.empty_response.count
            if stats.cancel is not None:
                self._cancel += stats.cancel.count

    def total(self) -> Responses | None:
        """Returns the sums; None without an index. Raises ValueError."""
        if not self._indexes:
            return None
        return Responses(
            uint64(self._success),
            uint64(self._fail),
            uint64(self._empty),
            uint64(self._cancel),
            CumulativeDuration(uint64(self._infers), uint64(self._infer_ns)),
            CumulativeDuration(uint64(self._outputs), uint64(self._output_ns)),
        )


class IndexEntry(msgspec.Struct):
    name: Text
    version: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] = ""
    state: str | None = None


class InstanceGroupConfig(msgspec.Struct):
    kind: str = "KIND_AUTO"
    count: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    gpus: Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 20)], ...], Meta(max_length=256)] = ()

    def instances(self) -> InstanceGroup:
        kind = kind_label(self.kind.removeprefix("KIND_")).upper()
        return InstanceGroup(kind, self.count, tuple(dict.fromkeys(self.gpus)))


class PresentObject(msgspec.Struct):
    """An object with ignored content."""


class TransactionPolicy(msgspec.Struct):
    decoupled: bool = False


class Parameter(msgspec.Struct):
    string_value: str = ""


class ModelConfig(msgspec.Struct):
    platform: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] = ""
    backend: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] = ""
    max_batch_size: Annotated[int, Meta(ge=0, le=1 << 31)] = 0
    instance_group: Annotated[tuple[InstanceGroupConfig, ...], Meta(max_length=1024)] = ()
    ensemble_scheduling: PresentObject | None = None
    model_transaction_policy: TransactionPolicy | None = None
    parameters: dict[str, Parameter] = {}

    def config(self) -> ModelConfigSummary:
        """Raises ValueError."""
        ensemble = self.platform == "ensemble" or self.ensemble_scheduling is not None
        marked_kind = self.parameters.get(_KIND_PARAMETER, Parameter()).string_value
        policy = self.model_transaction_policy
        if sum(1 + len(group.gpus) for group in self.instance_group) > _MAX_GROUP_DEVICES:
            raise ValueError(f"more than {_MAX_GROUP_DEVICES} devices in instance groups")
        return ModelConfigSummary(
            label_value(self.platform),
            label_value(self.backend),
            self.max_batch_size,
            "ensemble" if ensemble else kind_label(marked_kind),
            decoupled=policy is not None and policy.decoupled,
            groups=tuple(group.instances() for group in self.instance_group),
        )


class ServerMetadata(msgspec.Struct):
    name: Text
    version: Text
    extensions: list[str]
