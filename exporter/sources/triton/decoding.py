"""From the JSON of a KServe v2 server to our own values. Pure; strict where it matters.

Unknown fields are passed over and optional ones may be missing, as older servers lack some. One
model that cannot be understood is a problem and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from exporter.errors import BadData
from exporter.sources.triton.reading import Counts, Timed

Key = tuple[str, str]
"""A model's name and version."""

# Triton's numbers are uint64. (The bound cannot stand in Meta, which ends at int64.)
_LARGEST = (1 << 64) - 1
# Names are folder names of the model repository, or keys of an object store: never longer.
_LONGEST = 1024

Number = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=_LONGEST)]
T = TypeVar("T")


class _Duration(msgspec.Struct):
    count: Number
    ns: Number

    def timed(self) -> Timed:
        return Timed(_uint64(self.count), _uint64(self.ns))


class _Stages(msgspec.Struct):
    success: _Duration
    fail: _Duration
    queue: _Duration
    compute_input: _Duration
    compute_infer: _Duration
    compute_output: _Duration
    cache_hit: _Duration | None = None
    cache_miss: _Duration | None = None


class _Batch(msgspec.Struct):
    batch_size: Number
    compute_infer: _Duration


class _Statistics(msgspec.Struct):
    name: Text
    version: Text
    inference_count: Number
    execution_count: Number
    inference_stats: _Stages
    last_inference: Number = 0
    batch_stats: tuple[_Batch, ...] = ()

    def counts(self) -> Counts:
        stages = self.inference_stats
        batches = [
            (_uint64(batch.batch_size), _uint64(batch.compute_infer.count))
            for batch in self.batch_stats
        ]
        return Counts(
            inference_count=_uint64(self.inference_count),
            execution_count=_uint64(self.execution_count),
            success=stages.success.timed(),
            fail=stages.fail.timed(),
            queue=stages.queue.timed(),
            compute_input=stages.compute_input.timed(),
            compute_infer=stages.compute_infer.timed(),
            compute_output=stages.compute_output.timed(),
            cache_hit=stages.cache_hit.timed() if stages.cache_hit else None,
            cache_miss=stages.cache_miss.timed() if stages.cache_miss else None,
            batches=sum(count for _, count in batches),
            batch_items=sum(size * count for size, count in batches),
            last_inference=_uint64(self.last_inference),
        )


class _Reply(msgspec.Struct):
    model_stats: list[Any]


class _Entry(msgspec.Struct):
    name: Text
    state: str
    version: Annotated[str, Meta(max_length=_LONGEST)] = ""


class _Metadata(msgspec.Struct):
    name: Text
    version: Text
    extensions: list[str]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a server says of itself."""

    name: str
    version: str
    has_statistics: bool
    has_index: bool


def _uint64(number: int) -> int:
    if number > _LARGEST:
        raise ValueError("a number is larger than 64 bits hold")
    return number


def metadata(reply: Any) -> Metadata:
    """The reply to GET /v2. Raises BadData."""
    try:
        known = msgspec.convert(reply, _Metadata)
        return Metadata(
            _text(known.name),
            _text(known.version),
            has_statistics="statistics" in known.extensions,
            has_index="model_repository" in known.extensions,
        )
    except ValueError as error:  # msgspec's own errors are ValueErrors
        raise BadData(f"the server's metadata cannot be understood: {error}") from None


def statistics(reply: Any, most: int) -> tuple[dict[Key, Counts], list[BadData]]:
    """The reply to GET /v2/models/stats, by model, at most so many; and what is wrong with it.

    Raises BadData where nothing in it can be understood.
    """
    try:
        entries = msgspec.convert(reply, _Reply).model_stats
    except ValueError as error:
        raise BadData(f"the statistics cannot be understood: {error}") from None

    def one(entry: Any) -> tuple[Key, Counts]:
        known = msgspec.convert(entry, _Statistics)
        return (_text(known.name), _text(known.version)), known.counts()

    return _each("statistics", entries, one, most)


def ready(reply: Any, most: int) -> tuple[dict[Key, bool], list[BadData]]:
    """The reply to POST /v2/repository/index: whether each model is ready; as `statistics`.

    Models without a state were never asked for: they are left out.
    """
    if not isinstance(reply, list):
        raise BadData("the repository index cannot be understood: it is no list")
    entries = [entry for entry in reply if not isinstance(entry, dict) or "state" in entry]

    def one(entry: Any) -> tuple[Key, bool]:
        known = msgspec.convert(entry, _Entry)
        return (_text(known.name), _text(known.version)), known.state == "READY"

    return _each("repository index", entries, one, most)


def _text(text: str) -> str:
    """A label value; raises ValueError where it cannot be one."""
    if "\0" in text:
        raise ValueError("a name holds a NUL")
    return text


def _each(
    what: str, entries: list[Any], one: Callable[[Any], tuple[Key, T]], most: int
) -> tuple[dict[Key, T], list[BadData]]:
    """Decode the first entries each by itself, and say what is wrong, in a few problems at most."""
    decoded: dict[Key, T] = {}
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
            key, value = one(entry)
        except ValueError as error:
            bad, reason = bad + 1, reason or str(error)
            continue
        if key in decoded:
            twice += 1
        decoded.setdefault(key, value)
    if bad:
        problem = BadData(f"{what}: {bad} of {len(entries)} models cannot be understood: {reason}")
        if bad == len(entries):
            raise problem
        problems.append(problem)
    if twice:
        problems.append(BadData(f"{what}: {twice} models are listed again; the first is shown"))
    return decoded, problems
