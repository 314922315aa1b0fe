"""Simulates a text generator: 1.5 ms per token; fails on a negative number of tokens."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS").as_numpy()
            if tokens.min() < 0:
                responses.append(
                    pb_utils.InferenceResponse(error=pb_utils.TritonError("no such prompt"))
                )
                continue
            time.sleep(0.0015 * float(tokens.max()))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", tokens)]))
        return responses
