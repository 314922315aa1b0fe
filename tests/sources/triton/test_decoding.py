"""Decoding of responses: values, problems, and no exception but BadData."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import BadData
from exporter.sources.triton import decoding
from exporter.sources.triton.batches import bounds
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
from exporter.sources.triton.shared_models import ModelLimits
from tests.fakes.triton import duration, model
from tests.random_json import random_json
from tests.steps import complete


def statistics(body: bytes, models: int) -> decoding.Decoded[ModelCounts]:
    return complete(decoding.statistics(body, ModelLimits(models)))


def states(body: bytes, models: int) -> decoding.Decoded[str]:
    return complete(decoding.states(body, ModelLimits(models)))


def encoded(*models: object) -> bytes:
    return json.dumps({"model_stats": list(models)}).encode()


def changed(stage: str, value: object) -> dict[str, Any]:
    return model("bad", inference_stats=model()["inference_stats"] | {stage: value})


def test_statistics_keep_their_values() -> None:
    models, problems = statistics(encoded(model()), 10)
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
    models, problems = statistics(encoded(older), 10)
    assert not problems
    (counts,) = models.values()
    assert counts.cache_hit is None
    assert counts.cache_miss is None
    assert (counts.batches, counts.last_inference) == ((), None)


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
    models, problems = statistics(encoded(body), 10)
    assert not problems
    (counts,) = models.values()
    assert counts.responses == Responses(
        success=103, fail=3, empty=103, cancel=53,
        compute_infer=CumulativeDuration(103, 1030), compute_output=CumulativeDuration(103, 1030),
    )  # fmt: skip
    assert counts.memory == (ModelMemory("GPU", 0, 120), ModelMemory("CPU", 0, 7))


def test_a_count_below_zero_is_unknown() -> None:
    """Success - cache_hit, unsigned, if a hit completes between the two reads: not a fault."""
    torn = changed("compute_infer", duration((1 << 64) - 1, 5))
    models, problems = statistics(encoded(torn), 10)
    (counts,) = models.values()
    assert counts.compute_infer == CumulativeDuration(None, 5)
    assert not problems


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
    assert config(json.dumps(body).encode()) == ModelConfigSummary(
        "tensorrt_plan", "tensorrt", 32, "bls", decoupled=True,
        groups=(InstanceGroup("GPU", 2, (0, 1)), InstanceGroup("CPU", 1)),
    )  # fmt: skip
    ensemble = {"ensemble_scheduling": {"step": [{"model_name": "a"}]}, "max_batch_size": 0}
    assert config(json.dumps(ensemble).encode()).kind == "ensemble"
    assert config(b"{}") == ModelConfigSummary("", "", 0, "model", decoupled=False)
    for bad in (b"", b"[]", b"[" * 100_000):
        with pytest.raises(BadData, match="model configuration"):
            decoding.config(bad)


def config(body: bytes, faulty: int = 0) -> ModelConfigSummary:
    """Returns the configuration; it has that number of faults."""
    summary, faults = decoding.config(body)
    assert faults.count == faulty
    return summary


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_batch_size": -1}, {"max_batch_size": None}),
        ({"max_batch_size": "x"}, {"max_batch_size": None}),
        ({"platform": "\0"}, {"platform": ""}),
        ({"backend": 7}, {"backend": ""}),
        ({"parameters": {"inference-exporter.kind": {"string_value": "two words"}}}, {}),
        ({"parameters": {"other": 7}}, {}),
        ({"instance_group": [{"gpus": [-1]}, {"count": 2}]}, {}),
        ({"instance_group": [7, {"count": 2}]}, {}),
        ({"instance_group": [{"kind": "KIND_\r"}, {"count": 2}]}, {}),
        ({"model_transaction_policy": {"decoupled": "no"}}, {"decoupled": None}),
    ],
)
def test_one_strange_member_of_a_configuration_costs_that_member(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    body = {"platform": "p", "backend": "b", "max_batch_size": 8, "instance_group": [{"count": 2}]}
    whole = ModelConfigSummary(
        "p", "b", 8, "model", decoupled=False, groups=(InstanceGroup("AUTO", 2),)
    )
    assert config(json.dumps(body | changes).encode(), 1) == replace(whole, **expected)


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


UNDERFLOW = LARGEST - 4
UNKNOWN_RESPONSES = Responses(None, None, None, None, UNKNOWN_DURATION, UNKNOWN_DURATION)
STRANGE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    *(
        (changed("success", duration), {"success": CumulativeDuration(*expected)})
        for duration, expected in (
            ({"count": -1, "ns": 5}, (None, 5)),
            ({"count": 5, "ns": -1}, (5, None)),
            ({"count": UNDERFLOW, "ns": LARGEST}, (None, None)),
            ({"count": 1 << 63, "ns": 5}, (None, 5)),
            ({"count": 10**300, "ns": 5}, (None, 5)),
            ({"count": 1.5, "ns": 5}, (None, 5)),
            ({"count": True, "ns": 5}, (None, 5)),
            ({"count": "1", "ns": 5}, (None, 5)),
            ({"count": None, "ns": 5}, (None, 5)),
            ({"count": 5}, (5, None)),
            ([], (None, None)),
        )
    ),
    (changed("cache_hit", 7), {"cache_hit": None}),
    (model("bad", inference_count=-1), {"inference_count": None}),
    (model("bad", execution_count="x"), {"execution_count": None}),
    (model("bad", last_inference=UNDERFLOW), {"last_inference": None}),
    (model("bad", batch_stats={"1": 2}), {"batches": None}),
    (model("bad", batch_stats=[7, *model()["batch_stats"]]), {"batches": None}),
    (model("bad", batch_stats=[{}] * 5000), {"batches": None}),
    (model("bad", response_stats={"0": 7}), {"responses": UNKNOWN_RESPONSES}),
    (model("bad", response_stats=7), {"responses": None}),
    (model("bad", memory_usage=[7, {"type": "GPU", "id": -5, "byte_size": 1}]), {"memory": ()}),
    (model("bad", memory_usage="x"), {"memory": ()}),
]


@pytest.mark.parametrize(("strange", "expected"), STRANGE, ids=range(len(STRANGE)))
def test_one_strange_member_of_a_model_costs_that_member(
    strange: dict[str, Any], expected: dict[str, Any]
) -> None:
    (whole,) = statistics(encoded(model("bad")), 10)[0].values()
    known, problems = statistics(encoded(strange, model()), 10)
    assert known["bad", "1"] == replace(whole, **expected)
    assert known["wine", "1"] == whole
    assert all(problem.kind == "bad_data" for problem in problems)
    assert len(problems) <= 1


def test_of_a_batch_size_listed_twice_the_first_counts() -> None:
    batch = {"batch_size": 1, "compute_infer": duration(2, 2)}
    twice = model(batch_stats=[batch, batch | {"compute_infer": duration(9, 9)}])
    (counts,) = statistics(encoded(twice), 10)[0].values()
    assert counts.batches is not None
    assert [each.compute_infer.count for each in counts.batches] == [2]


BAD_MODELS: list[object] = [
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
        known, problems = statistics(encoded(*models), 10)
        assert list(known) == [("wine", "1")]
        assert [problem.kind for problem in problems] == ["bad_data"]
        assert "1 of 2 models" in problems[0].message
        assert len(problems[0].message) < 300
    with pytest.raises(BadData):
        statistics(encoded(bad), 10)


@pytest.mark.parametrize("strange", [b"\xff", b"\r", b"\0", rb"\ud800"])
def test_a_strange_character_costs_that_character(strange: bytes) -> None:
    body = encoded(model("broken"), model()).replace(b"broken", b"br" + strange + b"ken")
    known, _ = statistics(body, 10)
    assert len(known) == 2
    assert known["wine", "1"].inference_count == 12
    ((name, _), _) = known
    assert name in ("br\N{REPLACEMENT CHARACTER}ken", "br ken")


def test_unusual_names_are_valid() -> None:
    odd = 'a "quoted"\nback\\slash {brace} é 模型'
    known, problems = statistics(encoded(model(odd)), 10)
    assert not problems
    assert list(known) == [(odd, "1")]


def test_a_model_listed_twice_is_decoded_once() -> None:
    known, problems = statistics(encoded(model(), model(scale=2)), 10)
    assert known["wine", "1"].inference_count == 12
    assert [problem.kind for problem in problems] == ["bad_data"]
    listed, problems = states(b'[{"name":"a","state":"READY"},{"name":"a","state":""}]', 10)
    assert listed == {("a", ""): "READY"}
    assert len(problems) == 1


def test_models_over_the_limit_are_omitted_and_reported() -> None:
    known, problems = statistics(encoded(*(model(f"m{i}") for i in range(12))), 10)
    assert len(known) == 10
    assert "10 of at least 12" in problems[0].message
    assert "max_models" in problems[0].remedy


def test_a_server_without_models() -> None:
    assert statistics(b'{"model_stats":[]}', 10) == ({}, [])
    assert states(b"[]", 10) == ({}, [])


def test_the_index_has_the_states() -> None:
    index = [
        {"name": "a", "version": "1", "state": "READY"},
        {"name": "a", "version": "2", "state": "UNAVAILABLE", "reason": "Internal:\nno"},
        {"name": "b", "version": "1", "state": "UNLOADING"},
        {"name": "c", "version": "1", "state": "other"},
        {"name": "load never requested"},
    ]
    expected = {
        ("a", "1"): "READY",
        ("a", "2"): "UNAVAILABLE",
        ("b", "1"): "UNLOADING",
        ("c", "1"): "UNKNOWN",
    }
    assert states(json.dumps(index).encode(), 10) == (expected, [])
    known, problems = states(json.dumps([*index, {"name": 1, "state": ""}]).encode(), 10)
    assert known == expected
    assert len(problems) == 1


def test_metadata() -> None:
    body = b'{"name":"triton","version":"2.51.0","extensions":["statistics","trace"]}'
    known = decoding.metadata(body)
    assert (known.name, known.version) == ("triton", "2.51.0")
    assert known.has_statistics
    assert not known.has_index
    assert known.has_extensions


@pytest.mark.parametrize(
    ("members", "version", "listed"),
    [
        ('"version":"2022.2.0"', "2022.2.0", False),
        ('"version":"","extensions":[]', "", True),
        ('"version":7,"extensions":null', "", False),
        ('"version":"1","extensions":[7,"x"]', "1", True),
    ],
)
def test_metadata_of_another_server(members: str, version: str, listed: bool) -> None:
    known = decoding.metadata(f'{{"name":"OpenVINO Model Server",{members}}}'.encode())
    assert (known.name, known.version) == ("OpenVINO Model Server", version)
    assert known.has_extensions is listed
    assert not known.has_statistics


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
    b'{"name":"","version":"1","extensions":[]}',
    b'{"version":"1","extensions":[]}',
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
        lambda body: statistics(body, 1000),
        lambda body: states(body, 1000),
    ],
    ids=["metadata", "statistics", "ready"],
)
def test_a_bad_response_is_bad_data(decode: Callable[[bytes], object], body: bytes) -> None:
    with pytest.raises(BadData) as caught:
        decode(body)
    assert len(caught.value.message) < 300


def test_a_list_of_other_values_is_not_split() -> None:
    with pytest.raises(BadData, match="1 of 1 models cannot be decoded: too long"):
        statistics(b'{"model_stats":[' + b"1," * 1_000_000 + b"1]}", 1000)


MODEL_KEYS = (
    *("name", "version", "last_inference", "inference_count", "execution_count"),
    *("inference_stats", "batch_stats", "memory_usage", "response_stats", "state"),
)
KEYS = (
    *("model_stats", *MODEL_KEYS, "success", "fail", "queue", "compute_infer", "count", "ns"),
    *("batch_size", "byte_size", "0"),
)


def random_body(random: Random) -> bytes:
    """Returns a response: of random models, of another value, or of bytes that are not JSON."""
    kind = random.randrange(4)
    if kind == 0:
        return random.randbytes(random.randrange(61))
    if kind == 1:
        return json.dumps(random_json(random, KEYS)).encode()
    models = [
        {
            key: random_json(random, KEYS)
            for key in random.sample(MODEL_KEYS, random.randrange(len(MODEL_KEYS) + 1))
        }
        for _ in range(random.randrange(4))
    ]
    return json.dumps({"model_stats": models} if kind == 2 else models).encode()


@settings(deadline=None)  # a busy machine is not a defect
@given(st.integers(0, 1 << 32))
def test_only_bad_data_is_raised(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - no secret
    body = random_body(random)
    for decode in (
        decoding.metadata,
        lambda body: statistics(body, 5),
        lambda body: states(body, 5),
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
        models, _ = statistics(bytes(body), 5)
    except BadData:
        return
    assert all(0 <= (counts.success.ns or 0) < 1 << 63 for counts in models.values())
