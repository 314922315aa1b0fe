"""Acts like a text generator: 1.5 ms a token. Asked for a negative number of tokens, it fails."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for each in requests:
            tokens = pb_utils.get_input_tensor_by_name(each, "TOKENS").as_numpy()
            if tokens.min() < 0:
                answers.append(
                    pb_utils.InferenceResponse(error=pb_utils.TritonError("no such prompt"))
                )
                continue
            time.sleep(0.0015 * float(tokens.max()))
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("TEXT", tokens)]))
        return answers
