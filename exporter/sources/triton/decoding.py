"""Decodes the JSON of a KServe v2 server. Pure; strict about required fields.

A model that cannot be decoded is reported as a problem and does not affect the others.

Not tritonclient's rapidjson, which builds objects for the whole document and blocks the event loop
meanwhile: 46 ms for a model that streams 8192 tokens (response_stats), over a second for 4 MB of
adversarial JSON. msgspec takes 16 ms for either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from exporter.errors import BadData
from exporter.sources.triton.reading import STATES, ModelConfigSummary, ModelCounts, ModelKey
from exporter.sources.triton.schema import (
    IndexEntry,
    ModelConfig,
    ModelStats,
    ServerMetadata,
    label_value,
)

# Limit for a response that is decoded entry by entry: each comma may start an entry.
_MAX_COMMAS = 200_000
# The same for the metadata and for one model's configuration.
_MAX_SMALL_COMMAS = 20_000
# Limits of all models of a server together: length of their names and versions, sizes in
# batch_stats, and entries of memory_usage. The models beyond keep the rest.
_MAX_NAME_BYTES = 256 << 10
_MAX_BATCHES = 16_384
_MAX_MEMORY_ENTRIES = 4096

T = TypeVar("T")
E = TypeVar("E")


class _StatisticsResponse(msgspec.Struct):
    model_stats: list[ModelStats]


class _RawStatisticsResponse(msgspec.Struct):
    model_stats: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The server's metadata. has_statistics, has_index: whether it offers these extensions."""

    name: str
    version: str
    has_statistics: bool
    has_index: bool


def metadata(body: bytes) -> Metadata:
    """Decodes the response to GET /v2. Raises BadData."""
    _check_commas("metadata", body, _MAX_SMALL_COMMAS)
    try:
        raw = _decode("metadata", body, ServerMetadata)
        return Metadata(
            label_value(raw.name),
            label_value(raw.version),
            has_statistics="statistics" in raw.extensions,
            has_index="model_repository" in raw.extensions,
        )
    except ValueError as error:
        raise BadData(f"metadata: {error}") from None


def statistics(body: bytes, max_models: int) -> tuple[dict[ModelKey, ModelCounts], list[BadData]]:
    """Decodes the response to GET /v2/models/stats; returns at most max_models, and problems.

    Raises BadData if no entry can be decoded.
    """
    subject = "statistics"
    batches = entries_of_memory = cut = 0

    def entries() -> Sequence[ModelStats | msgspec.Raw]:
        try:
            return _decode(subject, body, _StatisticsResponse).model_stats
        except ValueError:
            return _decode_list(subject, body, _RawStatisticsResponse).model_stats

    def decode_entry(entry: ModelStats | msgspec.Raw) -> tuple[ModelKey, ModelCounts]:
        nonlocal batches, entries_of_memory, cut
        stats = _decode_entry(entry, ModelStats)
        batches += len(stats.batch_stats)
        entries_of_memory += len(stats.memory_usage)
        # Before the rows are built: they take many times the memory.
        without_batches = bool(stats.batch_stats) and batches > _MAX_BATCHES
        without_memory = bool(stats.memory_usage) and entries_of_memory > _MAX_MEMORY_ENTRIES
        if without_batches:
            stats.batch_stats = ()
        if without_memory:
            stats.memory_usage = ()
        cut += without_batches or without_memory
        return (label_value(stats.name), label_value(stats.version)), stats.counts()

    models, problems = _decode_entries(subject, entries(), decode_entry, max_models)
    if cut:
        problems.append(
            BadData(f"{subject}: {cut} models without batches or memory: too many in the response")
        )
    return models, problems


def states(body: bytes, max_models: int) -> tuple[dict[ModelKey, str], list[BadData]]:
    """Decodes the response to POST /v2/repository/index; as `statistics`.

    Omits models without a state: their load was never requested.
    """
    subject = "repository index"

    def entries() -> Sequence[IndexEntry | msgspec.Raw]:
        _check_commas(subject, body, _MAX_COMMAS)
        try:
            return [
                entry
                for entry in _decode(subject, body, list[IndexEntry])
                if entry.state is not None
            ]
        except ValueError:
            return _decode_list(subject, body, list[msgspec.Raw])

    def decode_entry(entry: IndexEntry | msgspec.Raw) -> tuple[ModelKey, str] | None:
        model = _decode_entry(entry, IndexEntry)
        if model.state is None:
            return None
        state = model.state if model.state in STATES else "UNKNOWN"
        return (label_value(model.name), label_value(model.version)), state

    return _decode_entries(subject, entries(), decode_entry, max_models)


def config(body: bytes) -> ModelConfigSummary:
    """Decodes the response to GET /v2/models/MODEL/versions/VERSION/config. Raises BadData."""
    _check_commas("model configuration", body, _MAX_SMALL_COMMAS)
    try:
        return _decode("model configuration", body, ModelConfig).config()
    except ValueError as error:
        raise BadData(f"model configuration: {error}") from None


def _decode(subject: str, body: bytes, type: type[T]) -> T:
    """Raises BadData for invalid JSON, ValueError for JSON of another shape."""
    try:
        return msgspec.json.decode(body, type=type)
    except RecursionError:
        raise BadData(f"{subject}: JSON nested too deeply") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise BadData(f"{subject}: not JSON: {error}") from None


def _check_commas(subject: str, body: bytes, limit: int) -> None:
    """Raises BadData: each comma may be an object of many times its length."""
    if body.count(b",") > limit:
        raise BadData(f"{subject}: not the response of a Triton server")


def _decode_list(subject: str, body: bytes, type: type[T]) -> T:
    """Splits a response into undecoded entries. Raises BadData."""
    _check_commas(subject, body, _MAX_COMMAS)
    try:
        return _decode(subject, body, type)
    except ValueError as error:
        raise BadData(f"{subject}: {error}") from None


def _decode_entry(entry: T | msgspec.Raw, type: type[T]) -> T:
    """Raises ValueError."""
    if not isinstance(entry, msgspec.Raw):
        return entry
    try:
        return msgspec.json.decode(entry, type=type)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decode_entries(
    subject: str,
    entries: Sequence[E],
    decode_entry: Callable[[E], tuple[ModelKey, T] | None],
    max_models: int,
) -> tuple[dict[ModelKey, T], list[BadData]]:
    """Decodes up to max_models entries separately; returns at most three problems with them."""
    decoded: dict[ModelKey, T] = {}
    problems: list[BadData] = []
    if len(entries) > max_models:
        problems.append(
            BadData(
                f"{subject}: only {max_models} of {len(entries)} models are exported",
                "raise triton.max_models if the server really has that many",
            )
        )
        entries = entries[:max_models]
    bad = repeated = name_bytes = too_long = 0
    reason = ""
    for entry in entries:
        try:
            pair = decode_entry(entry)
        except ValueError as error:
            bad, reason = bad + 1, reason or str(error)
            continue
        if pair is not None:
            name_bytes += sum(map(len, pair[0]))
            if name_bytes > _MAX_NAME_BYTES:
                too_long += 1
                continue
            repeated += pair[0] in decoded
            decoded.setdefault(*pair)
    if bad:
        problem = BadData(f"{subject}: {bad} of {len(entries)} models cannot be decoded: {reason}")
        if bad == len(entries):
            raise problem
        problems.append(problem)
    if too_long:
        problems.append(
            BadData(f"{subject}: {too_long} models are left out: the names of all are too long")
        )
    if repeated:
        problems.append(
            BadData(f"{subject}: {repeated} models are listed twice; the first entry is used")
        )
    return decoded, problems
