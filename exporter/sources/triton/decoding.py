"""From the JSON of a KServe v2 server to our own values. Pure; strict where it matters.

One model that cannot be understood is a problem and leaves the others alone.

Not through tritonclient's rapidjson, which makes objects of all there is and holds the event loop
meanwhile: 46 ms where one model streams 8192 tokens (response_stats), over a second for 4 MB made
to hurt; this takes 16 and 16 ms.
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
    text,
)

# Of a reply that is taken apart entry by entry: each comma may begin an entry.
_MOST_COMMAS = 200_000

T = TypeVar("T")
E = TypeVar("E")


class _Reply(msgspec.Struct):
    model_stats: list[ModelStats]


class _RawReply(msgspec.Struct):
    model_stats: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a server says of itself."""

    name: str
    version: str
    has_statistics: bool
    has_index: bool


def metadata(body: bytes) -> Metadata:
    """The reply to GET /v2. Raises BadData."""
    try:
        known = _decode("metadata", body, ServerMetadata)
        return Metadata(
            text(known.name),
            text(known.version),
            has_statistics="statistics" in known.extensions,
            has_index="model_repository" in known.extensions,
        )
    except ValueError as error:
        raise BadData(f"metadata: {error}") from None


def statistics(body: bytes, most: int) -> tuple[dict[ModelKey, ModelCounts], list[BadData]]:
    """The reply to GET /v2/models/stats, by model, at most so many; and what is wrong with it.

    Raises BadData where nothing in it can be understood.
    """
    what = "statistics"

    def split() -> Sequence[ModelStats | msgspec.Raw]:
        try:
            return _decode(what, body, _Reply).model_stats
        except ValueError:
            return _decode_parts(what, body, _RawReply).model_stats

    def one(entry: ModelStats | msgspec.Raw) -> tuple[ModelKey, ModelCounts]:
        known = _part(entry, ModelStats)
        return (text(known.name), text(known.version)), known.counts()

    return _each(what, split(), one, most)


def states(body: bytes, most: int) -> tuple[dict[ModelKey, str], list[BadData]]:
    """The reply to POST /v2/repository/index: the state of each model; as `statistics`.

    Models without a state were never asked for: they are left out.
    """
    what = "repository index"

    def split() -> Sequence[IndexEntry | msgspec.Raw]:
        try:
            return [
                entry for entry in _decode(what, body, list[IndexEntry]) if entry.state is not None
            ]
        except ValueError:
            return _decode_parts(what, body, list[msgspec.Raw])

    def one(entry: IndexEntry | msgspec.Raw) -> tuple[ModelKey, str] | None:
        known = _part(entry, IndexEntry)
        if known.state is None:
            return None
        state = known.state if known.state in STATES else "UNKNOWN"
        return (text(known.name), text(known.version)), state

    return _each(what, split(), one, most)


def config(body: bytes) -> ModelConfigSummary:
    """The reply to GET /v2/models/MODEL/versions/VERSION/config. Raises BadData."""
    try:
        return _decode("model configuration", body, ModelConfig).config()
    except ValueError as error:
        raise BadData(f"model configuration: {error}") from None


def _decode(what: str, body: bytes, type: type[T]) -> T:
    """Raises BadData where it is no JSON, ValueError where the JSON says something else."""
    try:
        return msgspec.json.decode(body, type=type)
    except RecursionError:
        raise BadData(f"{what}: JSON nested too deeply") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise BadData(f"{what}: not JSON: {error}") from None


def _decode_parts(what: str, body: bytes, type: type[T]) -> T:
    """Split the reply into its entries, to find those that can be understood. Raises BadData."""
    if body.count(b",") > _MOST_COMMAS:
        raise BadData(f"{what}: not what a Triton server answers")
    try:
        return _decode(what, body, type)
    except ValueError as error:
        raise BadData(f"{what}: {error}") from None


def _part(entry: T | msgspec.Raw, type: type[T]) -> T:
    """Raises ValueError."""
    if not isinstance(entry, msgspec.Raw):
        return entry
    try:
        return msgspec.json.decode(entry, type=type)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _each(
    what: str, entries: Sequence[E], one: Callable[[E], tuple[ModelKey, T] | None], most: int
) -> tuple[dict[ModelKey, T], list[BadData]]:
    """Decode the first entries each by itself, and say what is wrong, in a few problems at most."""
    decoded: dict[ModelKey, T] = {}
    problems: list[BadData] = []
    if len(entries) > most:
        problems.append(
            BadData(
                f"{what}: {most} of {len(entries)} models are shown",
                "raise triton.max_models if the server really has so many",
            )
        )
        entries = entries[:most]
    bad = twice = 0
    reason = ""
    for entry in entries:
        try:
            pair = one(entry)
        except ValueError as error:
            bad, reason = bad + 1, reason or str(error)
            continue
        if pair is not None:
            twice += pair[0] in decoded
            decoded.setdefault(*pair)
    if bad:
        problem = BadData(f"{what}: {bad} of {len(entries)} models cannot be understood: {reason}")
        if bad == len(entries):
            raise problem
        problems.append(problem)
    if twice:
        problems.append(BadData(f"{what}: {twice} models are listed again; the first is shown"))
    return decoded, problems
