"""Simulates a text generator: 1.5 ms per token.

Raises for more tokens than its limit: Triton counts a failure. Answers a negative number of tokens
with an error response: the client gets HTTP 500, and Triton 2.51 counts a success.
"""

import time

import triton_python_backend_utils as pb_utils

MOST_TOKENS = 1000


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS").as_numpy()
            if tokens.max() > MOST_TOKENS:  # fails every request of the batch
                raise ValueError(f"{tokens.max():.0f} tokens are more than {MOST_TOKENS}")
            if tokens.min() < 0:
                responses.append(
                    pb_utils.InferenceResponse(error=pb_utils.TritonError("no such prompt"))
                )
                continue
            time.sleep(0.0015 * float(tokens.max()))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", tokens)]))
        return responses
