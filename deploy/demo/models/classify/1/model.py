"""Acts like an image classifier: 8 ms for a batch and 0.4 ms more for each image in it."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(each, "IMAGE").as_numpy() for each in requests]
        time.sleep(0.008 + 0.0004 * sum(len(batch) for batch in images))
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("CLASS", batch.argmax(axis=1, keepdims=True).astype("float32"))]
            )
            for batch in images
        ]
