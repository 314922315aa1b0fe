"""A handler for TorchServe: doubles the tensor of a request's number."""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import json
import time
import uuid

import torch
from doubling import BAD, BROKEN, GATE, SLOW
from ts.utils.util import PredictionException


class Doubling:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [self.double(request) for request in data]

    def double(self, request):
        body = request.get("body")
        number = float((body if isinstance(body, dict) else json.loads(body))["number"])
        if number == BAD:
            raise PredictionException("no negative numbers", 513)
        if number == BROKEN:
            raise RuntimeError("the model is broken")
        if number == SLOW:
            wait_at_the_gate()
        return {"number": (2 * torch.tensor(number)).item()}


def wait_at_the_gate():
    """As in doubling.py: a handler of TorchServe is not asynchronous."""
    request = uuid.uuid4().hex
    (GATE / f"inside-{request}").touch()
    for _ in range(1000):
        if (GATE / f"go-{request}").exists():
            return
        time.sleep(0.02)
