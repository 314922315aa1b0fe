"""Long responses are decoded in pieces: the same values, and no long call of the decoder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import BadData
from exporter.sources.triton import decoding
from exporter.sources.triton.json_pieces import MAX_PIECE_BYTES
from exporter.sources.triton.reading import CumulativeDuration, Responses
from exporter.sources.triton.shared_models import ModelLimits
from exporter.worker import Steps
from tests.fakes.triton import duration, model
from tests.steps import complete


def encoded(*models: object, indent: int | None = None) -> bytes:
    separators = None if indent else (",", ":")
    return json.dumps({"model_stats": list(models)}, indent=indent, separators=separators).encode()


def responses(indexes: int) -> dict[str, Any]:
    stages = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
    return {
        str(index): {stage: duration(number, 10 * number) for number, stage in enumerate(stages, 1)}
        for index in range(indexes)
    }


def batches(sizes: int) -> list[object]:
    stages = ("compute_input", "compute_infer", "compute_output")
    return [
        {"batch_size": size, **dict.fromkeys(stages, duration(size, 7))}
        for size in range(1, sizes + 1)
    ]


def test_a_streaming_model_and_one_with_many_batch_sizes() -> None:
    """As large as real ones get."""
    body = encoded(
        model("before"),
        model("streaming", response_stats=responses(4000)),
        model("batching", batch_stats=batches(4000)),
        model("both", response_stats=responses(4000), batch_stats=batches(4000)),
        model("after"),
    )
    assert len(body) > 2_500_000
    models, problems = complete(decoding.statistics(body, ModelLimits(10)))
    assert not problems
    assert [name for name, _ in models] == ["before", "streaming", "batching", "both", "after"]
    for name in ("streaming", "both"):
        assert models[name, "1"].responses == Responses(
            3 * 4000,
            4 * 4000,
            5 * 4000,
            6 * 4000,
            CumulativeDuration(4000, 40_000),
            CumulativeDuration(2 * 4000, 80_000),
        )
    for name in ("batching", "both"):
        found = models[name, "1"].batches or ()
        assert [batch.size for batch in found] == list(range(1, 4001))
        assert [batch.compute_output.count for batch in found] == list(range(1, 4001))
    assert models["both", "1"].inference_count == 12
    assert len(models["streaming", "1"].batches or ()) == 2


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.sources.triton.json_pieces.PIECE_BYTES", 100)
    monkeypatch.setattr("exporter.sources.triton.json_pieces._SEARCHED_BYTES", 6000)
    for module in ("json_pieces", "decoding"):
        monkeypatch.setattr(f"exporter.sources.triton.{module}.MAX_PIECE_BYTES", 7000)


MODELS = [
    model("a"),
    model('odd "name"},{"name"', scale=3),
    model("responses", response_stats=responses(80)),
    model("batches", batch_stats=batches(80)),
    model("both", response_stats=responses(1), batch_stats=batches(1)),
    model("bad", inference_count=-1),
    model("memory", memory_usage=[{"type": "GPU", "id": 0, "byte_size": 5}]),
    {"name": "no model"},
    model("last"),
]


@pytest.mark.parametrize("indent", [None, 1, 8])
def test_the_pieces_have_the_values_of_the_whole(
    indent: int | None, request: pytest.FixtureRequest
) -> None:
    body = encoded(*MODELS, *(model(f"m{n}") for n in range(20)), indent=indent)
    whole = decoded(decoding.statistics(body, ModelLimits(100)))
    index = [{"name": f"m{n}", "version": "1", "state": "READY"} for n in range(200)]
    index_body = json.dumps([*index, {"name": "none"}], indent=indent).encode()
    states = decoded(decoding.states(index_body, ModelLimits(150)))
    assert len(whole[0]) == 28
    assert len(states[0]) == 150
    request.getfixturevalue("short_pieces")
    assert decoded(decoding.statistics(body, ModelLimits(100))) == whole
    assert decoded(decoding.states(index_body, ModelLimits(150)))[0] == states[0]


def decoded(steps: Steps[decoding.Decoded[Any]]) -> tuple[dict[Any, Any], list[str]]:
    models, problems = complete(steps)
    return models, [problem.message for problem in problems]


@pytest.mark.usefixtures("short_pieces")
@settings(deadline=None, max_examples=30)  # a busy machine is not a defect
@given(st.data())
def test_a_damaged_long_response_raises_only_bad_data(data: st.DataObject) -> None:
    body = bytearray(encoded(*MODELS))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        models, _ = complete(decoding.statistics(bytes(body), ModelLimits(100)))
    except BadData:
        return
    assert len(models) <= len(MODELS)


LENGTH = 1_000_000
HOSTILE: dict[str, bytes] = {
    "nested": b"[" * 500 + b"]" * 500,
    "objects": b'{"":' * 200 + b"0" + b"}" * 200,
    "empty objects": b"{}",
    "lists": b"[]",
    "numbers": b"1e300",
    "braces that look like boundaries": b'{"a":[{}]}',
    "models": json.dumps(model()).encode(),
    "names": b'{"name":0}',
    "escapes": b'"' + b"\\u0041" * 1000 + b'"',
    "blanks": b" " * 1000 + b"0",
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    ("start", "end"),
    [
        (b'{"model_stats":[', b"]}"),
        (b'{"x":[', b'],"model_stats":[]}'),
        (b'{"model_stats":[{"name":"a","response_stats":{"0":[', b"]}}]}"),
        (b'{"model_stats":[{"name":"a","batch_stats":[', b"]}]}"),
        (b"[", b"]"),
    ],
)
def test_no_call_of_the_decoder_is_long(
    kind: str, start: bytes, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 0
    decode: Callable[..., Any] = msgspec.json.decode

    def measured(text: Any, **arguments: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(bytes(text)))
        return decode(text, **arguments)

    monkeypatch.setattr(msgspec.json, "decode", measured)
    element = HOSTILE[kind]
    body = start + b",".join([element] * (LENGTH // (len(element) + 1))) + end
    responses: tuple[Callable[..., Steps[Any]], ...] = (decoding.statistics, decoding.states)
    for response in responses:
        with contextlib.suppress(BadData):
            models, _ = complete(response(body, ModelLimits(1000)))
            assert len(models) <= 1000
    assert longest <= MAX_PIECE_BYTES + 2
