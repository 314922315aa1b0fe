"""JSON schema of a KServe v2 server's responses, and their conversion to rows' values.

Unknown fields are skipped unparsed. Only names are required. A field that does not match is left
out by json_struct.py: it is None, so that it differs from one that the server does not return.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from exporter.faults import Faults
from exporter.kernel_formats import MAX_COUNT
from exporter.sources.triton.reading import (
    UNKNOWN_DURATION,
    Batch,
    CumulativeDuration,
    InstanceGroup,
    ModelConfigSummary,
    ModelCounts,
    ModelMemory,
    Responses,
)

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

# Triton's numbers are uint64: from 2^63 on, an unsigned difference has wrapped around below zero.
Natural = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Text = Annotated[str, Meta(min_length=1, max_length=_MAX_NAME_LENGTH)]


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


class DurationStat(msgspec.Struct, frozen=True, gc=False):
    count: Natural | None = None
    ns: Natural | None = None

    def duration(self) -> CumulativeDuration:
        return CumulativeDuration(self.count, self.ns)


class ComputedStat(msgspec.Struct, gc=False):
    """As DurationStat, with a count that the server computes as an unsigned difference.

    A torn read can wrap it around below zero: it is unknown then, and no fault. See statistics.py.
    """

    count: Annotated[int, Meta(ge=0)] | None = None
    ns: Natural | None = None

    def duration(self) -> CumulativeDuration:
        wrapped = self.count is not None and self.count > MAX_COUNT
        return CumulativeDuration(None if wrapped else self.count, self.ns)


def _duration(stat: DurationStat | ComputedStat | None) -> CumulativeDuration:
    return stat.duration() if stat is not None else UNKNOWN_DURATION


class Stages(msgspec.Struct):
    success: DurationStat | None = None
    fail: DurationStat | None = None
    queue: DurationStat | None = None
    compute_input: ComputedStat | None = None
    compute_infer: ComputedStat | None = None
    compute_output: ComputedStat | None = None
    cache_hit: DurationStat | None = None
    cache_miss: DurationStat | None = None


_NO_TIME = DurationStat(0, 0)


class BatchStats(msgspec.Struct):
    """Older servers and some backends lack stages other than compute_infer."""

    batch_size: Natural | None = None
    compute_infer: DurationStat | None = None
    compute_input: DurationStat | None = _NO_TIME
    compute_output: DurationStat | None = _NO_TIME

    def batch(self) -> Batch:
        return Batch(
            self.batch_size,
            _duration(self.compute_input),
            _duration(self.compute_infer),
            _duration(self.compute_output),
        )


class ResponseStats(msgspec.Struct, gc=False):
    """Statistics of one response index: the first response of each request, the second, ..."""

    compute_infer: DurationStat | None = None
    compute_output: DurationStat | None = None
    success: DurationStat | None = None
    fail: DurationStat | None = None
    empty_response: DurationStat | None = _NO_TIME
    cancel: DurationStat | None = _NO_TIME


_RESPONSE_STATS = tuple(field.name for field in msgspec.structs.fields(ResponseStats))
_UNKNOWN_RESPONSE = ResponseStats(empty_response=None, cancel=None)


class MemoryUsage(msgspec.Struct):
    type: Annotated[str, Meta(max_length=64)]
    id: Annotated[int, Meta(ge=-1, le=1 << 31)]
    byte_size: Natural | None = None


class ModelStats(msgspec.Struct):
    name: Text
    version: Text
    inference_count: Natural | None = None
    execution_count: Natural | None = None
    inference_stats: Stages | None = None
    last_inference: Natural | None = None
    batch_stats: (
        Annotated[tuple[BatchStats | None, ...], Meta(max_length=MAX_BATCH_SIZES)] | None
    ) = ()
    response_stats: dict[str, ResponseStats | None] | None = {}
    memory_usage: Annotated[tuple[MemoryUsage | None, ...], Meta(max_length=_MAX_DEVICES)] = ()

    def counts(self, responses: Responses | None = None) -> ModelCounts:
        """Returns the row's values. responses: the sums, if `response_stats` was decoded apart."""
        stages = self.inference_stats or Stages()
        return ModelCounts(
            inference_count=self.inference_count,
            execution_count=self.execution_count,
            success=_duration(stages.success),
            fail=_duration(stages.fail),
            queue=_duration(stages.queue),
            compute_input=_duration(stages.compute_input),
            compute_infer=_duration(stages.compute_infer),
            compute_output=_duration(stages.compute_output),
            cache_hit=stages.cache_hit.duration() if stages.cache_hit else None,
            cache_miss=stages.cache_miss.duration() if stages.cache_miss else None,
            batches=self._batches(),
            last_inference=self.last_inference,
            responses=responses or self._responses(),
            memory=self._memory(),
        )

    def _responses(self) -> Responses | None:
        if not self.response_stats:  # of most models
            return None
        sums = ResponseSums()
        sums.add(self.response_stats)
        return sums.total()

    def _batches(self) -> tuple[Batch, ...] | None:
        """Returns the batches by size; of a size that is listed twice, the first counts."""
        batches: dict[int | None, Batch] = {}
        for stats in self.batch_stats if self.batch_stats is not None else (None,):
            if stats is None:
                return None
            batches.setdefault(stats.batch_size, stats.batch())
        return tuple(batches[size] for size in sorted(batches, key=lambda size: size or 0))

    def _memory(self) -> tuple[ModelMemory, ...]:
        """Returns bytes by device, the sum of a device's entries."""
        sums: dict[tuple[str, int], int | None] = {}
        for usage in self.memory_usage:
            if usage is not None and "\0" not in usage.type:
                key = (usage.type, usage.id)
                sums[key] = _sum((sums.get(key, 0), usage.byte_size))
        return tuple(ModelMemory(*key, size) for key, size in sums.items() if size is not None)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Returns the sum; None if one of the numbers is, or it is too large for a count."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total if total <= MAX_COUNT else None


_UNKNOWN_STAT = DurationStat()


class ResponseSums:
    """Sums over all indexes: an index is a position in the stream, such as one per token.

    A sum is unknown if one of its numbers is.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int | None, int | None]] = dict.fromkeys(
            _RESPONSE_STATS, (0, 0)
        )
        self._indexes = 0

    def add(self, by_index: Mapping[str, ResponseStats | None]) -> None:
        """Adds indexes; None is one that is invalid."""
        self._indexes += len(by_index)
        indexes = [stats or _UNKNOWN_RESPONSE for stats in by_index.values()]
        for name, (count, nanoseconds) in self._sums.items():
            stats = [getattr(index, name) or _UNKNOWN_STAT for index in indexes]
            self._sums[name] = (
                _sum((count, *[stat.count for stat in stats])),
                _sum((nanoseconds, *[stat.ns for stat in stats])),
            )

    def total(self) -> Responses | None:
        """Returns the sums; None without an index."""
        if not self._indexes:
            return None
        sums = self._sums
        return Responses(
            sums["success"][0],
            sums["fail"][0],
            sums["empty_response"][0],
            sums["cancel"][0],
            CumulativeDuration(*sums["compute_infer"]),
            CumulativeDuration(*sums["compute_output"]),
        )


class IndexEntry(msgspec.Struct):
    """version: None if it is invalid: the empty version is valid."""

    name: Text
    version: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] | None = ""
    state: str | None = None


class InstanceGroupConfig(msgspec.Struct):
    kind: str | None = "KIND_AUTO"
    count: Annotated[int, Meta(ge=0, le=1 << 20)] | None = 0
    gpus: (
        Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 20)] | None, ...], Meta(max_length=256)]
        | None
    ) = ()

    def instances(self) -> InstanceGroup | None:
        """Returns the group; None if a part of it is invalid. Raises ValueError."""
        gpus = [gpu for gpu in self.gpus or () if gpu is not None]
        if self.kind is None or self.count is None or self.gpus is None:
            return None
        if len(gpus) != len(self.gpus):
            return None
        kind = kind_label(self.kind.removeprefix("KIND_")).upper()
        return InstanceGroup(kind, self.count, tuple(dict.fromkeys(gpus)))


class PresentObject(msgspec.Struct):
    """An object with ignored content."""


class TransactionPolicy(msgspec.Struct):
    decoupled: bool | None = False


class Parameter(msgspec.Struct):
    string_value: str = ""


class ModelConfig(msgspec.Struct):
    platform: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] = ""
    backend: Annotated[str, Meta(max_length=_MAX_NAME_LENGTH)] = ""
    max_batch_size: Annotated[int, Meta(ge=0, le=1 << 31)] | None = 0
    instance_group: Annotated[tuple[InstanceGroupConfig | None, ...], Meta(max_length=1024)] = ()
    ensemble_scheduling: PresentObject | None = None
    model_transaction_policy: TransactionPolicy | None = None
    parameters: dict[str, Parameter] = {}

    def config(self, faults: Faults) -> ModelConfigSummary:
        """Returns the exported part, without invalid texts and groups."""
        ensemble = self.platform == "ensemble" or self.ensemble_scheduling is not None
        marked_kind = self.parameters.get(_KIND_PARAMETER, Parameter()).string_value
        policy = self.model_transaction_policy

        def text(value: str) -> str:
            if "\0" in value:
                faults.add("a text contains a NUL")
                return ""
            return value

        def kind() -> str:
            try:
                return kind_label(marked_kind)
            except ValueError as error:
                faults.add(str(error))
                return kind_label("")

        return ModelConfigSummary(
            text(self.platform),
            text(self.backend),
            self.max_batch_size,
            "ensemble" if ensemble else kind(),
            decoupled=policy.decoupled if policy is not None else False,
            groups=self._groups(faults),
        )

    def _groups(self, faults: Faults) -> tuple[InstanceGroup, ...]:
        devices = sum(1 + len(group.gpus or ()) for group in self.instance_group if group)
        if devices > _MAX_GROUP_DEVICES:
            faults.add(f"more than {_MAX_GROUP_DEVICES} devices in instance groups")
            return ()
        groups = []
        for config in self.instance_group:
            try:
                group = config.instances() if config is not None else None
            except ValueError as error:
                faults.add(str(error))
            else:
                if group is not None:
                    groups.append(group)
        return tuple(groups)


class ServerMetadata(msgspec.Struct):
    """Servers other than Triton may have neither a version nor extensions."""

    name: Text
    version: str = ""
    extensions: list[str] | None = None
