"""From the JSON of a KServe v2 server to our own values. Pure; strict where it matters.

Unknown fields are passed over unbuilt and optional ones may be missing, as older servers lack
some. One model that cannot be understood is a problem and leaves the others alone.

Not through tritonclient's rapidjson, which makes objects of all there is and holds the event loop
meanwhile: 46 ms where one model streams 8192 tokens (response_stats), over a second for 4 MB made
to hurt; this takes 6 and 16 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

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
# Of a reply that is taken apart entry by entry: each comma may begin an entry.
_MOST_COMMAS = 200_000

Number = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1, max_length=_LONGEST)]
T = TypeVar("T")
E = TypeVar("E")


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
    model_stats: list[_Statistics]


class _RawReply(msgspec.Struct):
    model_stats: list[msgspec.Raw]


class _Entry(msgspec.Struct):
    name: Text
    version: Annotated[str, Meta(max_length=_LONGEST)] = ""
    state: str | None = None


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


def metadata(body: bytes) -> Metadata:
    """The reply to GET /v2. Raises BadData."""
    try:
        known = _decode("metadata", body, _Metadata)
        return Metadata(
            _text(known.name),
            _text(known.version),
            has_statistics="statistics" in known.extensions,
            has_index="model_repository" in known.extensions,
        )
    except ValueError as error:
        raise BadData(f"metadata: {error}") from None


def statistics(body: bytes, most: int) -> tuple[dict[Key, Counts], list[BadData]]:
    """The reply to GET /v2/models/stats, by model, at most so many; and what is wrong with it.

    Raises BadData where nothing in it can be understood.
    """
    what = "statistics"

    def split() -> Sequence[_Statistics | msgspec.Raw]:
        try:
            return _decode(what, body, _Reply).model_stats
        except ValueError:
            return _decode_parts(what, body, _RawReply).model_stats

    def one(entry: _Statistics | msgspec.Raw) -> tuple[Key, Counts]:
        known = _part(entry, _Statistics)
        return (_text(known.name), _text(known.version)), known.counts()

    return _each(what, split(), one, most)


def ready(body: bytes, most: int) -> tuple[dict[Key, bool], list[BadData]]:
    """The reply to POST /v2/repository/index: whether each model is ready; as `statistics`.

    Models without a state were never asked for: they are left out.
    """
    what = "repository index"

    def split() -> Sequence[_Entry | msgspec.Raw]:
        try:
            return [entry for entry in _decode(what, body, list[_Entry]) if entry.state is not None]
        except ValueError:
            return _decode_parts(what, body, list[msgspec.Raw])

    def one(entry: _Entry | msgspec.Raw) -> tuple[Key, bool] | None:
        known = _part(entry, _Entry)
        if known.state is None:
            return None
        return (_text(known.name), _text(known.version)), known.state == "READY"

    return _each(what, split(), one, most)


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


def _text(text: str) -> str:
    """A label value; raises ValueError where it cannot be one."""
    if "\0" in text:
        raise ValueError("a name holds a NUL")
    return text


def _each(
    what: str, entries: Sequence[E], one: Callable[[E], tuple[Key, T] | None], most: int
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
