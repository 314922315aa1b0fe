"""Models of every kind for a real server. Input VALUE: milliseconds to work; see model.py."""

from __future__ import annotations

from tests.sources.triton.server import Model

_BLS = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "VALUE")
            child = pb_utils.InferenceRequest(
                model_name="wine", requested_output_names=["RESULT"], inputs=[value]
            ).exec()
            if child.has_error():
                raise ValueError(child.error().message())
            responses.append(pb_utils.InferenceResponse(child.output_tensors()))
        return responses
"""

_STREAMING = '''
import time
import numpy
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """VALUE responses, then an empty final one."""

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb_utils.get_input_tensor_by_name(request, "VALUE").as_numpy().max())
            for _ in range(count):
                time.sleep(0.002)
                tensor = pb_utils.Tensor("RESULT", numpy.zeros((1,), numpy.float32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
'''

_PER_REQUEST = '''
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """An error for each request with a negative VALUE; the execution succeeds."""

    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "VALUE").as_numpy()
            if value.min() < 0:
                error = pb_utils.TritonError("requested to fail")
                responses.append(pb_utils.InferenceResponse([], error))
            else:
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("RESULT", value)]))
        return responses
'''

_METRIC = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.family = pb_utils.MetricFamily(
            name="my_responses", description="Responses sent", kind=pb_utils.MetricFamily.COUNTER
        )
        self.metric = self.family.Metric(labels={"kind": "good"})

    def execute(self, requests):
        self.metric.increment(len(requests))
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor(
                    "RESULT", pb_utils.get_input_tensor_by_name(request, "VALUE").as_numpy()
                )
            ])
            for request in requests
        ]
"""

_STEP = (
    'step [{{ model_name: "{0}" model_version: -1 '
    'input_map {{ key: "VALUE" value: "{1}" }} output_map {{ key: "RESULT" value: "{2}" }} }}]\n'
)
_TENSORS = (
    'input [{ name: "VALUE" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
    'output [{ name: "RESULT" data_type: TYPE_FP32 dims: [ 1 ] }]\n'
)

ENSEMBLE = Model(
    "ensemble",
    whole_config='platform: "ensemble"\nmax_batch_size: 8\n'
    + _TENSORS
    + "ensemble_scheduling {\n"
    + _STEP.format("wine", "VALUE", "between")
    + _STEP.format("wine", "between", "RESULT")
    + "}\n",
)
BLS = Model(
    "caller",
    code=_BLS,
    config='parameters { key: "inference-exporter.kind" value: { string_value: "bls" } }\n',
)
STREAMING = Model(
    "streaming",
    max_batch_size=0,
    code=_STREAMING,
    config="model_transaction_policy { decoupled: True }\n",
)
PER_REQUEST = Model("lenient", code=_PER_REQUEST)
METRIC = Model("custom_metric", code=_METRIC)
VERSIONS = Model("versions", config="version_policy { all: {} }\n", versions=(1, 2))
_QUEUE = "dynamic_batching {{ default_queue_policy {{ {} }} }}\n"
IMPATIENT = Model(
    "impatient",
    max_batch_size=1,
    config=_QUEUE.format("timeout_action: REJECT default_timeout_microseconds: 20000"),
)
NARROW = Model("narrow", max_batch_size=1, config=_QUEUE.format("max_queue_size: 1"))
SPARE = Model("spare", max_batch_size=48)
EVERY = (
    Model("wine"),
    ENSEMBLE,
    BLS,
    STREAMING,
    PER_REQUEST,
    METRIC,
    VERSIONS,
    IMPATIENT,
    NARROW,
    SPARE,
)
