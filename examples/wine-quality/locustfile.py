r"""Traffic for the wine service by Locust: health 1 : good 10 : corrupt 2.

    .cache/wine-quality/bin/locust -f examples/wine-quality/locustfile.py --headless \
        --host http://localhost:8080 -u 5 -r 1 --run-time 5m --stop-timeout 5

Without --stop-timeout Locust ends in the middle of requests, and its ledger lacks those that the
service counts. Corrupt requests must be refused with 422: any other status is a failure.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from locust import HttpUser, between, task

sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "demo"))
from load import wine

CHOICE = random.Random()  # noqa: S311 - wines, not secrets


class Taster(HttpUser):
    """Sends a request every second or so."""

    wait_time = between(0.5, 1.5)

    @task(1)
    def health(self) -> None:
        self.client.get("/healthcheck")

    @task(10)
    def predict(self) -> None:
        self._send("good", 200)

    @task(2)
    def predict_bad_data(self) -> None:
        self._send("corrupt", 422)

    def _send(self, kind: str, status: int) -> None:
        body = json.loads(wine(CHOICE, kind).body)
        with self.client.post("/predict", json=body, name=kind, catch_response=True) as response:
            if response.status_code == status:
                response.success()
            else:
                response.failure(f"{response.status_code}, not {status}")
