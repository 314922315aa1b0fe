"""What a service learns later: the truth of its predictions, as counters on its own page.

Copy this file beside your service. `predicted` remembers a prediction under a key of your own (a
transaction, a row); `learned` compares it with the truth when that arrives, minutes or days later.
The memory is bounded: the oldest predictions are dropped, and after `ttl` seconds all are. No key
becomes a label. The rules of prometheus/rules/truth.yml make accuracy, precision, recall, mean
absolute error and their coverage of it; those of several replicas add up if the truth of a
prediction is sent to the replica that made it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Summary

MAX_FEATURES = 50
DELAYS = ((3600, "1h"), (86_400, "1d"), (604_800, "7d"), (math.inf, "later"))


class Truths:
    """The predictions of a model that wait for their truth.

    classes: of a classifier, others count as "other"; without them the model predicts numbers,
    whose absolute errors are counted in error_buckets. features: numeric inputs by name, each with
    the lowest and highest value that is expected.
    """

    def __init__(
        self,
        model: str,
        classes: tuple[str, ...] = (),
        features: Mapping[str, tuple[float, float]] | None = None,
        *,
        error_buckets: tuple[float, ...] = (0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        capacity: int = 100_000,
        ttl: float = 604_800,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.features = dict(features or {})
        if len(self.features) > MAX_FEATURES:
            raise ValueError(f"more than {MAX_FEATURES} features")
        self.model, self.classes, self.capacity, self.ttl = model, classes, capacity, ttl
        self._waiting: OrderedDict[Hashable, tuple[float, str | float]] = OrderedDict()
        self._lock = threading.Lock()

        def labels(*more: str) -> dict[str, Any]:
            return {"labelnames": ("model", *more), "registry": registry}

        self._predictions = Counter("model_predictions", "Predictions.", **labels())
        self._dropped = Counter(
            "model_predictions_dropped", "Forgotten without a truth.", **labels("reason")
        )
        outcome = ("predicted", "actual", "correct", "delay")
        self._outcomes = Counter("model_outcomes", "Known truths.", **labels(*outcome))
        self._errors = Histogram(
            "model_absolute_error", "Absolute error.", buckets=error_buckets, **labels()
        )
        self._values = Counter("model_feature_values", "Values, missing too.", **labels("feature"))
        self._missing = Counter("model_feature_missing", "No number.", **labels("feature"))
        self._out = Counter("model_feature_out_of_range", "Out of range.", **labels("feature"))
        self._above = Summary(
            "model_feature_above_low", "Values in range, less the lowest.", **labels("feature")
        )
        self._low = Gauge("model_feature_low", "Lowest value of the range.", **labels("feature"))
        for name, (low, _) in self.features.items():
            self._low.labels(model, name).set(low)
            for counter in (self._values, self._missing, self._out, self._above):
                counter.labels(model, name)
        self._predictions.labels(model)

    def predicted(
        self,
        key: Hashable | None,
        prediction: str | float,
        features: Mapping[str, float | None] | None = None,
    ) -> None:
        """Counts a prediction and its features; with a key, remembers it for its truth."""
        self._predictions.labels(self.model).inc()
        for name, (low, high) in self.features.items() if features is not None else ():
            self._observe(name, features.get(name), low, high)
        now = time.monotonic()
        with self._lock:
            if key is not None:
                self._waiting.pop(key, None)
                self._waiting[key] = (now, prediction)
            while len(self._waiting) > self.capacity:
                self._drop("capacity")
            while self._waiting and next(iter(self._waiting.values()))[0] < now - self.ttl:
                self._drop("ttl")

    def learned(self, key: Hashable, actual: str | float) -> bool:
        """Counts the truth of a prediction; returns whether the prediction was remembered."""
        with self._lock:
            since, prediction = self._waiting.pop(key, (-math.inf, ""))
        delay = time.monotonic() - since
        if delay > self.ttl:
            return False
        if self.classes:
            pair = [name if name in self.classes else "other" for name in (prediction, actual)]
            right = str(prediction == actual).lower()
            within = next(name for seconds, name in DELAYS if delay <= seconds)
            self._outcomes.labels(self.model, *pair, right, within).inc()
        else:
            self._errors.labels(self.model).observe(abs(float(prediction) - float(actual)))
        return True

    def _observe(self, name: str, value: float | None, low: float, high: float) -> None:
        self._values.labels(self.model, name).inc()
        if value is None or not math.isfinite(value):
            self._missing.labels(self.model, name).inc()
        elif not low <= value <= high:
            self._out.labels(self.model, name).inc()
        else:
            self._above.labels(self.model, name).observe(value - low)

    def _drop(self, reason: str) -> None:
        self._waiting.popitem(last=False)
        self._dropped.labels(self.model, reason).inc()
