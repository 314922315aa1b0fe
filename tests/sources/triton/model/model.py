"""Model for tests, run by Triton's Python backend; its input sets its behaviour.

VALUE (FP32, one per item of the batch): milliseconds to work; a negative one makes the whole
execution fail. RESULT is VALUE.
"""

import time

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton's own


class TritonPythonModel:
    def execute(self, requests: list) -> list:  # type: ignore[type-arg]  # Triton's own types
        values = [
            pb_utils.get_input_tensor_by_name(request, "VALUE").as_numpy() for request in requests
        ]
        if min(value.min() for value in values) < 0:
            raise ValueError("requested to fail")
        time.sleep(max(value.max() for value in values) / 1000)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", value)]) for value in values]
