"""Decoding of responses: values, problems, and no exception but BadData."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import BadData
from exporter.sources.triton import decoding
from exporter.sources.triton.batches import bounds
from exporter.sources.triton.reading import (
    Batch,
    CumulativeDuration,
    InstanceGroup,
    ModelConfigSummary,
    ModelMemory,
    Responses,
)
from exporter.sources.triton.shared_models import ModelLimits
from tests.fakes.triton import duration, model
from tests.steps import complete

TEN, THOUSAND = ModelLimits(10), ModelLimits(1000)


def encoded(*models: object) -> bytes:
    return json.dumps({"model_stats": list(models)}).encode()


def changed(stage: str, value: object) -> dict[str, Any]:
    return model("bad", inference_stats=model()["inference_stats"] | {stage: value})


def test_statistics_keep_their_values() -> None:
    models, problems = complete(decoding.statistics(encoded(model()), TEN))
    assert not problems
    (counts,) = models.values()
    assert list(models) == [("wine", "1")]
    assert counts.inference_count == 12
    assert counts.execution_count == 6
    assert counts.success == CumulativeDuration(4, 4_000_000_000)
    assert counts.fail == CumulativeDuration(1, 500_000_000)
    assert counts.compute_infer == CumulativeDuration(3, 2_000_000_000)
    assert counts.cache_hit == CumulativeDuration(1, 100_000_000)
    assert counts.batches == (
        Batch(1, CumulativeDuration(2, 2), CumulativeDuration(2, 2), CumulativeDuration(0, 0)),
        Batch(4, CumulativeDuration(3, 3), CumulativeDuration(3, 3), CumulativeDuration(0, 0)),
    )
    assert counts.responses is None
    assert counts.memory == ()
    assert counts.last_inference == 1_795_223_338_287


def test_missing_fields_of_older_and_extra_fields_of_newer_servers() -> None:
    older = model()
    for field in ("response_stats", "memory_usage", "batch_stats", "last_inference"):
        del older[field]
    for field in ("cache_hit", "cache_miss"):
        del older["inference_stats"][field]
    older["new_field"] = [{"of": "anything"}]
    models, problems = complete(decoding.statistics(encoded(older), TEN))
    assert not problems
    (counts,) = models.values()
    assert counts.cache_hit is None
    assert counts.cache_miss is None
    assert (counts.batches, counts.last_inference) == ((), 0)


def test_responses_are_summed_and_memory_is_by_device() -> None:
    def response(count: int, **changes: int) -> dict[str, object]:
        names = ("compute_infer", "compute_output", "success", "fail", "empty_response", "cancel")
        return {name: duration(changes.get(name, count), 10 * count) for name in names}

    body = model(
        response_stats={str(i): response(1, fail=0, cancel=i % 2) for i in range(100)}
        | {"100": response(3)},
        memory_usage=[
            {"type": "GPU", "id": 0, "byte_size": 100},
            {"type": "GPU", "id": 0, "byte_size": 20},
            {"type": "CPU", "id": 0, "byte_size": 7},
        ],
    )
    models, problems = complete(decoding.statistics(encoded(body), TEN))
    assert not problems
    (counts,) = models.values()
    assert counts.responses == Responses(
        success=103, fail=3, empty=103, cancel=53,
        compute_infer=CumulativeDuration(103, 1030), compute_output=CumulativeDuration(103, 1030),
    )  # fmt: skip
    assert counts.memory == (ModelMemory("GPU", 0, 120), ModelMemory("CPU", 0, 7))


def test_a_count_below_zero_becomes_zero() -> None:
    """Success - cache_hit, unsigned, if a hit completes between the two reads."""
    torn = changed("compute_infer", duration((1 << 64) - 1, 5))
    (counts,) = complete(decoding.statistics(encoded(torn), TEN))[0].values()
    assert counts.compute_infer == CumulativeDuration(0, 5)


def test_a_configuration() -> None:
    body = {
        "name": "a", "platform": "tensorrt_plan", "backend": "tensorrt", "max_batch_size": 32,
        "instance_group": [
            {"name": "a_0", "kind": "KIND_GPU", "count": 2, "gpus": [0, 1, 0], "profile": ["x"]},
            {"name": "a_1", "kind": "KIND_CPU", "count": 1, "gpus": []},
        ],
        "model_transaction_policy": {"decoupled": True},
        "parameters": {"inference-exporter.kind": {"string_value": "bls"}},
        "dynamic_batching": {"preferred_batch_size": [4]},
    }  # fmt: skip
    assert decoding.config(json.dumps(body).encode()) == ModelConfigSummary(
        "tensorrt_plan", "tensorrt", 32, "bls", decoupled=True,
        groups=(InstanceGroup("GPU", 2, (0, 1)), InstanceGroup("CPU", 1)),
    )  # fmt: skip
    ensemble = {"ensemble_scheduling": {"step": [{"model_name": "a"}]}, "max_batch_size": 0}
    assert decoding.config(json.dumps(ensemble).encode()).kind == "ensemble"
    assert decoding.config(b"{}") == ModelConfigSummary("", "", 0, "model", decoupled=False)
    for bad in (
        b"",
        b"[]",
        b'{"max_batch_size":-1}',
        b'{"platform":"\\u0000"}',
        b'{"parameters":{"inference-exporter.kind":{"string_value":"two words"}}}',
        b'{"instance_group":[{"gpus":[-1]}]}',
        b"[" * 100_000,
    ):
        with pytest.raises(BadData, match="model configuration"):
            decoding.config(bad)


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0, (1,)),
        (1, (1,)),
        (6, (1, 2, 4, 6)),
        (8, (1, 2, 4, 8)),
        (2048, tuple(1 << n for n in range(12))),
    ],
)
def test_bounds_of_batch_sizes(largest: int, expected: tuple[int, ...]) -> None:
    assert bounds(largest) == expected


@given(st.integers(0, 1 << 31))
def test_at_most_twelve_bounds_from_one_to_the_largest(largest: int) -> None:
    result = bounds(largest)
    assert len(result) <= 12
    assert result == tuple(sorted(set(result)))
    assert (result[0], result[-1]) == (1, max(1, largest))


LARGEST = (1 << 64) - 1


def test_the_largest_64_bit_number_is_valid() -> None:
    models, problems = complete(
        decoding.statistics(encoded(changed("success", duration(LARGEST, LARGEST))), TEN)
    )
    assert not problems
    assert models["bad", "1"].success == CumulativeDuration(LARGEST, LARGEST)


BAD_MODELS: list[object] = [
    changed("success", duration(-1, 0)),
    changed("success", duration(0, -1)),
    changed("success", duration(LARGEST + 1, 0)),
    changed("success", duration(10**300, 0)),
    changed("success", {"count": 1.5, "ns": 0}),
    changed("success", {"count": True, "ns": 0}),
    changed("success", {"count": "1", "ns": 0}),
    changed("success", {"count": None, "ns": 0}),
    changed("success", {"count": 1}),
    changed("success", []),
    changed("queue", None),
    model("bad", inference_stats=None),
    model("bad", inference_count=-1),
    model("bad", batch_stats=[{"batch_size": -1, "compute_infer": duration(1, 1)}]),
    model("bad", batch_stats={"1": 2}),
    model(""),
    model("a\0b"),
    model("n" * 1025),
    model("bad", version=1),
    model("bad", version=""),
    {},
    None,
    [],
    "wine",
    7,
]


@pytest.mark.parametrize("bad", BAD_MODELS, ids=range(len(BAD_MODELS)))
def test_one_bad_model_is_a_problem_and_the_others_are_decoded(bad: object) -> None:
    for models in ([model(), bad], [bad, model()]):
        known, problems = complete(decoding.statistics(encoded(*models), TEN))
        assert list(known) == [("wine", "1")]
        assert [problem.kind for problem in problems] == ["bad_data"]
        assert "1 of 2 models" in problems[0].message
        assert len(problems[0].message) < 300
    with pytest.raises(BadData):
        complete(decoding.statistics(encoded(bad), TEN))


def test_a_name_in_broken_utf8_is_one_bad_model() -> None:
    body = encoded(model("broken"), model()).replace(b"broken", b"br\xffken")
    known, problems = complete(decoding.statistics(body, TEN))
    assert list(known) == [("wine", "1")]
    assert len(problems) == 1


def test_unusual_names_are_valid() -> None:
    odd = 'a "quoted"\nback\\slash {brace} é 模型'
    known, problems = complete(decoding.statistics(encoded(model(odd)), TEN))
    assert not problems
    assert list(known) == [(odd, "1")]


def test_a_model_listed_twice_is_decoded_once() -> None:
    known, problems = complete(decoding.statistics(encoded(model(), model(scale=2)), TEN))
    assert known["wine", "1"].inference_count == 12
    assert [problem.kind for problem in problems] == ["bad_data"]
    states, problems = complete(
        decoding.states(b'[{"name":"a","state":"READY"},{"name":"a","state":""}]', TEN)
    )
    assert states == {("a", ""): "READY"}
    assert len(problems) == 1


def test_models_over_the_limit_are_omitted_and_reported() -> None:
    known, problems = complete(
        decoding.statistics(encoded(*(model(f"m{i}") for i in range(12))), TEN)
    )
    assert len(known) == 10
    assert "10 of at least 12" in problems[0].message
    assert "max_models" in problems[0].remedy


def test_a_server_without_models() -> None:
    assert complete(decoding.statistics(b'{"model_stats":[]}', TEN)) == ({}, [])
    assert complete(decoding.states(b"[]", TEN)) == ({}, [])


def test_the_index_has_the_states() -> None:
    index = [
        {"name": "a", "version": "1", "state": "READY"},
        {"name": "a", "version": "2", "state": "UNAVAILABLE", "reason": "Internal:\nno"},
        {"name": "b", "version": "1", "state": "UNLOADING"},
        {"name": "c", "version": "1", "state": "other"},
        {"name": "load never requested"},
    ]
    states = {
        ("a", "1"): "READY",
        ("a", "2"): "UNAVAILABLE",
        ("b", "1"): "UNLOADING",
        ("c", "1"): "UNKNOWN",
    }
    assert complete(decoding.states(json.dumps(index).encode(), TEN)) == (states, [])
    known, problems = complete(
        decoding.states(json.dumps([*index, {"name": 1, "state": ""}]).encode(), TEN)
    )
    assert known == states
    assert len(problems) == 1


def test_metadata() -> None:
    body = b'{"name":"triton","version":"2.51.0","extensions":["statistics","trace"]}'
    known = decoding.metadata(body)
    assert (known.name, known.version) == ("triton", "2.51.0")
    assert known.has_statistics
    assert not known.has_index


DEEP = b'{"a":' * 500_000
BAD_RESPONSES = [
    b"",
    b"null",
    b"7",
    b'"text"',
    b"<html><body>It works!</body></html>",
    b'{"model_stats":',
    b'{"model_stats":null}',
    b'{"model_stats":{}}',
    b'{"name":"triton","version":"","extensions":[]}',
    b'{"name":"triton","version":"1","extensions":null}',
    b'[{"name":',
    b"[1,2,3]",
    b"\xff\xfe",
    b'{"model_stats":[]} and more',
    b"NaN",
    DEEP,
    b'{"model_stats":[' + DEEP,
    b'[{"name":"a","state":' + DEEP,
    b'{"model_stats":[' + b"1," * 1_000_000 + b"1]}",
    b"[" + b"{}," * 1_000_000 + b"{}]",
    b"[" + b"[[[[[[]]]]]]," * 300_000 + b"1]",
    b"9" * 4_000_000,
]


@pytest.mark.parametrize("body", BAD_RESPONSES, ids=range(len(BAD_RESPONSES)))
@pytest.mark.parametrize(
    "decode",
    [
        decoding.metadata,
        lambda body: complete(decoding.statistics(body, THOUSAND)),
        lambda body: complete(decoding.states(body, THOUSAND)),
    ],
    ids=["metadata", "statistics", "ready"],
)
def test_a_bad_response_is_bad_data_at_once(decode: Callable[[bytes], object], body: bytes) -> None:
    started = time.thread_time()
    with pytest.raises(BadData) as caught:
        decode(body)
    assert time.thread_time() - started < 0.25, "the event loop is blocked meanwhile"
    assert len(caught.value.message) < 300


def test_a_list_of_other_values_is_not_split() -> None:
    with pytest.raises(BadData, match="1 of 1 models cannot be decoded: too long"):
        complete(decoding.statistics(b'{"model_stats":[' + b"1," * 1_000_000 + b"1]}", THOUSAND))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["model_stats", "name", "version", "state", "success", "count"]), inner
        )
    ),
)


@settings(deadline=None)  # a busy machine is not a defect
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_only_bad_data_is_raised(body: bytes) -> None:
    for decode in (
        decoding.metadata,
        lambda body: complete(decoding.statistics(body, ModelLimits(5))),
        lambda body: complete(decoding.states(body, ModelLimits(5))),
    ):
        try:
            decode(body)
        except BadData as error:
            assert error.message  # noqa: PT017 - most inputs raise, some need not


@settings(deadline=None)  # a busy machine is not a defect
@given(st.data())
def test_a_damaged_response_raises_only_bad_data(data: st.DataObject) -> None:
    body = bytearray(encoded(model("a"), model("b")))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        models, _ = complete(decoding.statistics(bytes(body), ModelLimits(5)))
    except BadData:
        return
    assert all(counts.success.ns <= LARGEST for counts in models.values())
