"""examples/truth.py: outcomes, errors, features, and the bounds of its memory."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.paths import ROOT


def load_truth() -> Any:
    spec = importlib.util.spec_from_file_location("truth", ROOT / "examples" / "truth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


truth = load_truth()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The helper's time in seconds, as the only element."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def outcome(registry: CollectorRegistry, **labels: str) -> float | None:
    return registry.get_sample_value("model_outcomes_total", {"model": "fraud", **labels})


def sample(registry: CollectorRegistry, name: str, labels: Mapping[str, str]) -> float | None:
    return registry.get_sample_value(name, {"model": "fraud", **labels})


def test_outcomes_by_class_and_delay(registry: CollectorRegistry, clock: list[float]) -> None:
    truths = truth.Truths("fraud", ("yes", "no"), registry=registry)
    for key, prediction in enumerate(("yes", "yes", "no", "maybe")):
        truths.predicted(key, prediction)
    truths.predicted(None, "yes")
    assert truths.learned(0, "yes")
    clock[0] += 3601
    assert truths.learned(1, "no")
    clock[0] += 86_400
    assert truths.learned(2, "never heard of")
    assert truths.learned(3, "maybe")
    assert not truths.learned(3, "maybe"), "a truth counts once"
    assert not truths.learned("unknown", "yes")
    assert sample(registry, "model_predictions_total", {}) == 5
    assert outcome(registry, predicted="yes", actual="yes", correct="true", delay="1h") == 1
    assert outcome(registry, predicted="yes", actual="no", correct="false", delay="1d") == 1
    assert outcome(registry, predicted="no", actual="other", correct="false", delay="7d") == 1
    assert outcome(registry, predicted="other", actual="other", correct="true", delay="7d") == 1


def test_the_memory_is_bounded(registry: CollectorRegistry, clock: list[float]) -> None:
    truths = truth.Truths("fraud", ("yes",), capacity=3, ttl=100, registry=registry)
    for key in range(5):
        truths.predicted(key, "yes")
        truths.predicted(key, "yes")  # again: one entry
    assert [truths.learned(key, "yes") for key in range(5)] == [False, False, True, True, True]
    assert sample(registry, "model_predictions_dropped_total", {"reason": "capacity"}) == 2
    truths.predicted("old", "yes")
    clock[0] += 101
    assert not truths.learned("old", "yes"), "too late"
    truths.predicted("older", "yes")
    clock[0] += 101
    truths.predicted("new", "yes")
    assert sample(registry, "model_predictions_dropped_total", {"reason": "ttl"}) == 1
    assert len(truths._waiting) == 1


def test_errors_of_a_regression(registry: CollectorRegistry) -> None:
    truths = truth.Truths("fraud", registry=registry, error_buckets=(0.5, 2))
    truths.predicted("a", 5.0)
    truths.predicted("b", 5.0)
    truths.learned("a", 5.25)
    truths.learned("b", 2)
    assert sample(registry, "model_absolute_error_sum", {}) == 3.25
    assert sample(registry, "model_absolute_error_count", {}) == 2
    assert sample(registry, "model_absolute_error_bucket", {"le": "0.5"}) == 1


def test_features(registry: CollectorRegistry) -> None:
    truths = truth.Truths("fraud", features={"age": (-10, 90), "unused": (0, 1)}, registry=registry)
    age = {"feature": "age"}
    for value in (-10, 40, None, float("nan"), 91, -11):
        truths.predicted(None, 1.0, {"age": value})
    assert sample(registry, "model_feature_values_total", age) == 6
    assert sample(registry, "model_feature_missing_total", age) == 2
    assert sample(registry, "model_feature_out_of_range_total", age) == 2
    # The mean of -10 and 40 is the lowest value and half of the sum above it.
    assert sample(registry, "model_feature_above_low_sum", age) == 50
    assert sample(registry, "model_feature_above_low_count", age) == 2
    assert sample(registry, "model_feature_low", age) == -10
    unused = {"feature": "unused"}
    assert sample(registry, "model_feature_missing_total", unused) == 6
    with pytest.raises(ValueError, match="more than 50 features"):
        truth.Truths("fraud", features={str(n): (0, 1) for n in range(51)}, registry=registry)
