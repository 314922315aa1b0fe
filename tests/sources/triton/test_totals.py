"""Limits of a response over all its models: names, batches, memory, devices."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from exporter.errors import BadData
from exporter.sources.triton import decoding
from exporter.sources.triton.shared_models import ModelLimits
from exporter.sources.triton.statistics import Window
from tests.fakes.triton import duration, model
from tests.steps import complete


def encoded(*models: object) -> bytes:
    return json.dumps({"model_stats": list(models)}).encode()


def batches(number: int) -> list[object]:
    return [{"batch_size": size, "compute_infer": duration(1, 1)} for size in range(number)]


def test_models_beyond_the_total_of_batches_keep_the_rest() -> None:
    body = encoded(*(model(f"m{n}", batch_stats=batches(4000)) for n in range(6)))
    models, (problem,) = complete(decoding.statistics(body, ModelLimits(10)))
    batches_of = [counts.batches for counts in models.values()]
    assert [len(each) for each in batches_of if each is not None] == [4000] * 4
    assert batches_of[4:] == [None, None], "unknown, not 0"
    assert {counts.inference_count for counts in models.values()} == {12}
    assert "2 models without batches or memory" in problem.message


def test_models_beyond_the_total_of_memory_entries_keep_the_rest() -> None:
    entries = [{"type": "GPU", "id": n, "byte_size": 1} for n in range(200)]
    body = encoded(*(model(f"m{n}", memory_usage=entries) for n in range(21)))
    models, (problem,) = complete(decoding.statistics(body, ModelLimits(100)))
    assert [len(counts.memory) for counts in models.values()] == [200] * 20 + [0]
    assert "1 models without batches or memory" in problem.message


def test_models_beyond_the_total_of_names_are_left_out() -> None:
    names = [f"{n:04}".ljust(1000, "x") for n in range(300)]
    models, (problem,) = complete(
        decoding.statistics(encoded(*map(model, names)), ModelLimits(1000))
    )
    assert len(models) == (256 << 10) // 1001
    assert f"{300 - len(models)} models are left out" in problem.message
    index = json.dumps([{"name": name, "version": "1", "state": "READY"} for name in names])
    states, _ = complete(decoding.states(index.encode(), ModelLimits(1000)))
    assert list(states) == list(models)


def test_a_configuration_with_too_many_devices_has_no_instance_groups() -> None:
    groups = [{"kind": "KIND_GPU", "count": 1, "gpus": list(range(200))} for _ in range(6)]
    body = {"platform": "p", "instance_group": groups}
    config, faults = decoding.config(json.dumps(body).encode())
    assert (config.platform, config.groups) == ("p", ())
    assert "more than 1024 devices" in faults.first


@pytest.mark.parametrize("decode", [decoding.metadata, decoding.config])
def test_a_long_document_is_not_decoded(decode: object) -> None:
    body = b'{"name":"a","version":"1","extensions":["' + b'","' * 90_000 + b'"]}'
    assert callable(decode)
    with pytest.raises(BadData, match="not the response of a Triton server"):
        decode(body)


def test_of_a_long_index_the_first_models_are_decoded() -> None:
    index = ",".join(f'{{"name":"m{n}","state":"READY"}}' for n in range(50_000))
    states, (problem,) = complete(decoding.states(f"[{index}]".encode(), ModelLimits(1000)))
    assert list(states) == [(f"m{n}", "") for n in range(1000)]
    assert "only 1000 of at least 1" in problem.message


def test_a_snapshot_of_a_window_takes_less_than_600_bytes() -> None:
    """Of a busy server with 1000 models a window holds 60,000 of them."""
    window = Window(1000)
    tracemalloc.start()
    try:
        for number in range(60):
            reply = encoded(model(scale=1 + number, batch_stats=[]))
            ((_, counts),) = complete(decoding.statistics(reply, ModelLimits(1)))[0].items()
            window.add(17 * number, counts)
            del reply, counts
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 59 < 600


def test_window_samples_hold_no_batch_objects() -> None:
    window = Window(60)
    body = encoded(model(batch_stats=batches(10)))
    ((_, counts),) = complete(decoding.statistics(body, ModelLimits(1)))[0].items()
    window.add(0, counts)
    ((_, compact),) = window._snapshots
    assert compact.counts().batches == ()
    assert compact.counts().queue == counts.queue
    assert compact.batches() == dict.fromkeys(range(10), 1)
