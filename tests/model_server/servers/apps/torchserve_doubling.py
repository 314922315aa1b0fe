"""A handler of TorchServe that doubles a number with torch.

An object with `numbers` instead of `number` has a streamed response.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import asyncio
import json

import torch
from doubling import BadNumber, double
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Doubling:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [self.respond(request.get("body"), context) for request in data]

    def respond(self, body, context):
        request = body if isinstance(body, dict) else json.loads(body)
        if "numbers" not in request:
            return {"number": self.doubled(request["number"])}
        *first, last = map(self.doubled, request["numbers"])
        for number in first:
            send_intermediate_predict_response(
                [f"{number}\n"], context.request_ids, "Intermediate", 200, context
            )
        return f"{last}\n"

    def doubled(self, number):
        try:
            return asyncio.run(double(torch.tensor(float(number)))).item()
        except BadNumber as error:
            raise PredictionException(str(error), 513) from None
