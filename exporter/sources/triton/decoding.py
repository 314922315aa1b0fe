"""Decodes the JSON of a KServe v2 server. Pure.

A member that does not match is left out and reported; so is a model whose name or version does not.
Neither affects others.

Not tritonclient's rapidjson, which builds objects for the whole document and blocks the event loop
meanwhile: 46 ms for a model that streams 8192 tokens (response_stats), over a second for 4 MB of
adversarial JSON. Responses for all models are decoded in steps, of a few milliseconds each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import msgspec

from exporter.errors import BadData
from exporter.faults import Faults, FaultTotals
from exporter.json_struct import TooManyFaults, decode_leniently
from exporter.sources.triton.json_pieces import (
    MAX_PIECE_BYTES,
    Elements,
    Span,
    check_length,
    cut,
    decode_elements,
    decode_entry,
    decode_json,
    list_span,
    not_tritons,
    pattern,
    raw,
    search,
)
from exporter.sources.triton.reading import (
    STATES,
    ModelConfigSummary,
    ModelCounts,
    ModelKey,
    Responses,
)
from exporter.sources.triton.schema import (
    MAX_BATCH_SIZES,
    BatchStats,
    IndexEntry,
    ModelConfig,
    ModelStats,
    ResponseStats,
    ResponseSums,
    ServerMetadata,
    label_value,
)
from exporter.sources.triton.shared_models import ModelLimits
from exporter.worker import Steps

_STATISTICS = Elements(
    pattern(b"", rb"\{", b'"model_stats"', b":", rb"\["),
    pattern(rb"\}", b"(,)", rb"\{", b'"name"'),
    pattern(rb"\]", rb"\}", rb"\Z"),
)
_INDEX = Elements(
    pattern(b"", rb"\["),
    pattern(rb"\}", b"(,)", rb"\{"),
    pattern(rb"\]", rb"\Z"),
)
# Of one model: its statistics by response index, and by batch size; neither is empty.
_RESPONSES = Elements(
    pattern(b'"response_stats"', b":", rb"\{", b'(?=")'),
    pattern(rb"\}", b"(,)", b'"[0-9]'),
    pattern(rb"\}", rb"\}", rb"(\})"),
)
_BATCHES = Elements(
    pattern(b'"batch_stats"', b":", rb"\[", rb"(?=\{)"),
    pattern(rb"\}", b"(,)", rb"\{", b'"batch_size"'),
    pattern(rb"\}", rb"\}", rb"(\])"),
)

# Between two indexes or two batch sizes.
_IN_MODEL = pattern(rb"\}", b",", b'(?:"[0-9]|', rb"\{", b'"batch_size")')

_MAX_VERSION_LENGTH = 256

T = TypeVar("T")
Decoded = tuple[dict[ModelKey, T], list[BadData]]
"""The models, and problems."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The server's metadata.

    has_extensions: whether it lists extensions. has_statistics, has_index: whether it offers these.
    """

    name: str
    version: str
    has_extensions: bool
    has_statistics: bool
    has_index: bool


class _StatisticsResponse(msgspec.Struct):
    model_stats: list[ModelStats]


class _RawStatisticsResponse(msgspec.Struct):
    model_stats: list[msgspec.Raw]


def metadata(body: bytes) -> Metadata:
    """Decodes the response to GET /v2. Raises BadData unless it has a name."""
    server = _document("metadata", body, ServerMetadata, Faults())
    extensions = server.extensions or ()
    try:
        name = label_value(server.name)
    except ValueError as error:
        raise BadData(f"metadata: {error}") from None
    return Metadata(
        name,
        server.version.replace("\0", "")[:_MAX_VERSION_LENGTH],
        has_extensions=server.extensions is not None,
        has_statistics="statistics" in extensions,
        has_index="model_repository" in extensions,
    )


def config(body: bytes) -> tuple[ModelConfigSummary, Faults]:
    """Decodes the response to GET /v2/models/MODEL/versions/VERSION/config.

    Returns the configuration, and the parts that are left out. Raises BadData.
    """
    faults = Faults()
    return _document("model configuration", body, ModelConfig, faults).config(faults), faults


def _document(subject: str, body: bytes, struct: type[T], faults: Faults) -> T:
    """Decodes a document without long lists. Raises BadData."""
    check_length(subject, body)
    try:
        return decode_leniently(body, struct, faults)
    except RecursionError:
        raise BadData(f"{subject}: JSON nested too deeply") from None
    except (msgspec.ValidationError, TooManyFaults) as error:
        raise BadData(f"{subject}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadData(f"{subject}: not JSON: {error}") from None


def statistics(body: bytes, limits: ModelLimits) -> Steps[Decoded[ModelCounts]]:
    """Decodes the response to GET /v2/models/stats; returns models and problems.

    Raises BadData if no entry can be decoded.
    """
    subject = "statistics"
    models: _Models[ModelCounts] = _Models(subject, limits)
    decoder = _StatisticsDecoder(limits, models.faults)
    if len(body) <= MAX_PIECE_BYTES:
        for entry in _statistics_list(subject, body):
            models.add(partial(decoder.decode, entry))
    else:
        span = list_span(subject, body, _STATISTICS)
        for piece in cut(body, *span, _STATISTICS.boundary, _IN_MODEL):
            yield
            if piece is None:
                continue
            if piece[1] - piece[0] <= MAX_PIECE_BYTES:
                for entry in decode_elements(subject, body[slice(*piece)], ModelStats):
                    models.add(partial(decoder.decode, entry))
            else:
                yield from _long_entries(body, piece, models, decoder)
            if models.full:
                break
    return decoder.finish(*models.finish())


def states(body: bytes, limits: ModelLimits) -> Steps[Decoded[str]]:
    """Decodes the response to POST /v2/repository/index; as `statistics`.

    Omits models without a state: their load was never requested.
    """
    subject = "repository index"
    models: _Models[str] = _Models(subject, limits)
    for piece in cut(body, *list_span(subject, body, _INDEX), _INDEX.boundary):
        yield
        if piece is None:
            continue
        if piece[1] - piece[0] > MAX_PIECE_BYTES:
            raise not_tritons(subject)
        for entry in decode_elements(subject, body[slice(*piece)], IndexEntry):
            if isinstance(entry, msgspec.Raw) or entry.state is not None:
                models.add(partial(_decode_state, entry, models.faults))
        if models.full:
            break
    return models.finish()


class _Models(Generic[T]):
    """The decoded models of a response, within the limits, and the problems of others.

    faults: the members that are left out.
    """

    def __init__(self, subject: str, limits: ModelLimits) -> None:
        self._subject = subject
        self._max_models = limits.models
        self._max_name_bytes = limits.name_bytes
        self._decoded: dict[ModelKey, T] = {}
        self._entries = self._bad = self._repeated = self._name_bytes = self._too_long = 0
        self._reason = ""
        self.faults = Faults()

    def add(self, decode: Callable[[], tuple[ModelKey, T] | None]) -> None:
        """Decodes one entry, which may raise ValueError. None is no model."""
        if self._entries >= self._max_models:
            self._entries += 1
            return
        try:
            pair = decode()
        except ValueError as error:
            self.reject(str(error))
            return
        self._entries += 1
        if pair is not None:
            self._name_bytes += sum(map(len, pair[0]))
            if self._name_bytes > self._max_name_bytes:
                self._too_long += 1
                return
            self._repeated += pair[0] in self._decoded
            self._decoded.setdefault(*pair)

    def reject(self, reason: str) -> None:
        """Counts an entry that cannot be decoded."""
        self._entries += 1
        self._bad, self._reason = self._bad + 1, self._reason or reason

    @property
    def full(self) -> bool:
        """Whether there are more entries than models to return."""
        return self._entries > self._max_models

    def finish(self) -> Decoded[T]:
        """Returns the models, and at most five problems. Raises BadData if all are bad."""
        subject, problems = self._subject, []
        entries = min(self._entries, self._max_models)
        if self.full:
            problems.append(
                BadData(
                    f"{subject}: only {self._max_models} of at least {self._entries} models are"
                    " exported",
                    "raise triton.max_models if the server really has that many",
                )
            )
        if self._bad:
            problem = BadData(
                f"{subject}: {self._bad} of {entries} models cannot be decoded: {self._reason}"
            )
            if self._bad == entries:
                raise problem
            problems.append(problem)
        if self._too_long:
            problems.append(
                BadData(
                    f"{subject}: {self._too_long} models are left out: the names of all are too"
                    " long"
                )
            )
        if self._repeated:
            problems.append(
                BadData(
                    f"{subject}: {self._repeated} models are listed twice; the first entry is used"
                )
            )
        totals = FaultTotals()
        totals.add(subject, self.faults)
        return self._decoded, [*problems, *totals.problems()]


class _StatisticsDecoder:
    """Decodes entries of the statistics, within the limits of all models together."""

    def __init__(self, limits: ModelLimits, faults: Faults) -> None:
        self._limits, self._faults = limits, faults
        self._batches = self._memory_entries = self._cut = 0

    def decode(
        self,
        entry: ModelStats | msgspec.Raw,
        responses: Responses | None = None,
        batches: tuple[BatchStats | None, ...] = (),
    ) -> tuple[ModelKey, ModelCounts]:
        """Raises ValueError. responses, batches: those that were taken out of the entry."""
        stats = decode_entry(entry, ModelStats, self._faults)
        stats.batch_stats = batches or stats.batch_stats
        self._batches += len(stats.batch_stats or ())
        self._memory_entries += len(stats.memory_usage)
        # Before the rows are built: they take many times the memory.
        limits = self._limits
        without_batches = bool(stats.batch_stats) and self._batches > limits.batches
        without_memory = bool(stats.memory_usage) and self._memory_entries > limits.memory_entries
        if without_batches:
            stats.batch_stats = None
        if without_memory:
            stats.memory_usage = ()
        self._cut += without_batches or without_memory
        return (label_value(stats.name), label_value(stats.version)), stats.counts(responses)

    def finish(
        self, models: dict[ModelKey, ModelCounts], problems: list[BadData]
    ) -> Decoded[ModelCounts]:
        """Returns the models and problems, with one for the models cut by a limit."""
        if self._cut:
            problems.append(
                BadData(
                    f"statistics: {self._cut} models without batches or memory: too many in the"
                    " response"
                )
            )
        return models, problems


def _long_entries(
    body: bytes, piece: Span, models: _Models[ModelCounts], decoder: _StatisticsDecoder
) -> Steps[None]:
    """Decodes entries that may be too long for one call: their long parts in pieces."""
    for span in cut(body, *piece, _STATISTICS.boundary, _IN_MODEL, single=True):
        yield
        if span is None:
            continue
        entry = body[slice(*span)]
        try:
            if len(entry) > MAX_PIECE_BYTES:
                parts = yield from _split(entry, models.faults)
            else:
                parts = raw(entry), None, ()
        except ValueError as error:
            models.reject(str(error))
        else:
            models.add(partial(decoder.decode, *parts))


def _split(
    entry: bytes, faults: Faults
) -> Steps[tuple[msgspec.Raw, Responses | None, tuple[BatchStats | None, ...]]]:
    """Returns an entry without its long parts, and these. Raises ValueError."""
    sums = ResponseSums()
    entry, responses = yield from _take_out(entry, _RESPONSES)
    for piece in cut(responses, 0, len(responses), _RESPONSES.boundary):
        yield
        if piece is not None:
            text = b"{%b}" % responses[slice(*piece)]
            sums.add(decode_entry(raw(text), dict[str, ResponseStats | None], faults))
    sizes: list[BatchStats | None] = []
    entry, batches = yield from _take_out(entry, _BATCHES)
    for piece in cut(batches, 0, len(batches), _BATCHES.boundary):
        yield
        if piece is not None:
            text = b"[%b]" % batches[slice(*piece)]
            sizes += decode_entry(raw(text), list[BatchStats | None], faults)
            if len(sizes) > MAX_BATCH_SIZES:
                raise ValueError(f"more than {MAX_BATCH_SIZES} batch sizes")
    return raw(entry), sums.total(), tuple(sizes)


def _take_out(entry: bytes, elements: Elements) -> Steps[tuple[bytes, bytes]]:
    """Returns an entry without these elements, and the elements; both are empty without any."""
    start = yield from _find(entry, elements.start, 0)
    if start is None:
        return entry, b""
    end = yield from _find(entry, elements.end, start.end(), elements.boundary)
    if end is None:
        return entry, b""
    first, last = start.end(), end.start(1)
    return entry[:first] + entry[last:], entry[first:last]


def _find(
    text: bytes, wanted: re.Pattern[bytes], start: int, within: re.Pattern[bytes] | None = None
) -> Steps[re.Match[bytes] | None]:
    for found in search(text, wanted, start, len(text), within):
        if found is not None:
            return found
        yield
    return None


def _decode_state(entry: IndexEntry | msgspec.Raw, faults: Faults) -> tuple[ModelKey, str] | None:
    model = decode_entry(entry, IndexEntry, faults)
    if model.state is None or model.version is None:
        return None
    state = model.state if model.state in STATES else "UNKNOWN"
    return (label_value(model.name), label_value(model.version)), state


def _statistics_list(subject: str, body: bytes) -> Sequence[ModelStats | msgspec.Raw]:
    """Decodes a short response as a whole. Raises BadData."""
    try:
        return decode_json(subject, body, _StatisticsResponse).model_stats
    except ValueError:
        pass
    try:
        return decode_json(subject, body, _RawStatisticsResponse).model_stats
    except ValueError as error:
        raise BadData(f"{subject}: {error}") from None
