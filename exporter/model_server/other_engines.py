"""The built-in profiles of servers of any model, in the form of `model_server.profiles`."""

from __future__ import annotations

from typing import Any

# Paths of probes, of the metrics page and of the documentation, which are no requests to a model.
_NO_INFERENCE = (
    "/(readyz|livez|healthz?|ready|live|ping|metrics|docs|docs.json|openapi.json|schema.json)?"
)

OTHER_ENGINES: dict[str, dict[str, Any]] = {
    "mlserver": {
        "title": "MLServer",
        "detect": "rest_server_requests_in_progress model_infer_request_duration "
        "model_infer_request_success model_infer_request_failure",
        "model": "model",
        "port": "8082",
        "api_port": "8080",
        "images": "mlserver",
        "identity": "mlserver",
        "health": "/v2/health/ready",
        "version": "/v2 version",
        "metrics": {
            "requests_running": 'rest_server_requests_in_progress{method="POST"}',
            "requests_total{outcome=ok}": "model_infer_request_success_total",
            "requests_total{outcome=error}": "model_infer_request_failure_total",
            "request_duration_seconds": "model_infer_request_duration",
        },
        "notes": (
            "Its page has a port of its own, 8082; version and readiness are those of the API, "
            "whose address model_server.api_url sets. A cancelled request is ok at its end. Bad "
            "JSON (422) and failures of gRPC requests are in no outcome. "
            "Failures of unknown models count under the requested name. requests_running is of the "
            "whole server, without a model. The request duration has sums only."
        ),
    },
    "kserve": {
        "title": "KServe",
        "port": "8080",
        "detect": "request_predict_seconds request_preprocess_seconds",
        "model": "model_name",
        "images": "kserve/",
        "identity": "kserve",
        "health": "/v2/health/ready",
        "version": "/v2 version",
        "metrics": {
            "requests_total{outcome=ok}": "request_postprocess_seconds_count",
            "requests_total{outcome=error}": [
                "request_predict_seconds_count - request_postprocess_seconds_count",
                "request_predict_seconds_count",
            ],
            "request_duration_seconds": "request_predict_seconds",
        },
        "notes": (
            "Errors are predictions without postprocessing, so an error appears a poll later. An "
            "error of preprocessing, bad JSON and an unknown model are in no outcome. A cancelled "
            "request is ok at its end. The request duration is that of predict, without pre- and "
            "postprocessing."
        ),
    },
    "bentoml": {
        "title": "BentoML",
        "port": "3000",
        "detect": "bentoml_service_request bentoml_service_request_in_progress",
        "model": "service_name",
        "images": "bentoml/",
        "health": "/readyz",
        "metrics": {
            "requests_running": (
                f'bentoml_service_request_in_progress{{endpoint!="{_NO_INFERENCE}"}}'
            ),
            "requests_total{outcome=ok}": (
                f'bentoml_service_request_total{{endpoint!="{_NO_INFERENCE}",'
                'http_response_code="[123].."}'
            ),
            "requests_total{outcome=error}": (
                f'bentoml_service_request_total{{endpoint!="{_NO_INFERENCE}",'
                'http_response_code!="[123]..|429|503"}'
            ),
            "requests_total{outcome=rejected}": (
                f'bentoml_service_request_total{{endpoint!="{_NO_INFERENCE}",'
                'http_response_code="429|503"}'
            ),
            "request_duration_seconds": (
                f'bentoml_service_request_duration_seconds{{endpoint!="{_NO_INFERENCE}"}}'
            ),
        },
        "notes": (
            "The label model is the service. A cancelled request runs on: it is ok, or with a "
            "timeout a 504, which is an error, as are 400 and 404; a cancelled stream is in no "
            "outcome. 429 and 503 are rejected. Endpoints are added up, "
            "without those of probes."
        ),
    },
    "rayserve": {
        "title": "Ray Serve",
        "detect": "ray_serve_num_http_requests ray_serve_num_ongoing_http_requests "
        "ray_serve_deployment_replica_healthy",
        "model": "application",
        "port": "8080",
        "images": "rayproject/ray",
        "metrics": {
            "requests_running": "ray_serve_num_ongoing_requests_at_replicas",
            "requests_waiting": "ray_serve_deployment_queued_queries",
            "requests_total{outcome=ok}": (
                'ray_serve_num_http_requests_total{status_code="[123].."}'
            ),
            "requests_total{outcome=error}": (
                'ray_serve_num_http_requests_total{status_code!="[123]..|499|503"}'
            ),
            "requests_total{outcome=rejected}": (
                'ray_serve_num_http_requests_total{status_code="503"}'
            ),
            "requests_total{outcome=cancelled}": (
                'ray_serve_num_http_requests_total{status_code="499"}'
            ),
            "request_duration_seconds": "ray_serve_http_request_latency_ms / 1000 without sum",
        },
        "notes": (
            "The page of the node (RAY metrics export port). The label model is the application; "
            "404 of unknown routes count without one. 503 is a full queue. A streamed response "
            "that its client cancels, or that breaks, is ok. The sum of its "
            "histograms is made from the middles of buckets, and left out. gRPC is not counted."
        ),
    },
    "torchserve": {
        "title": "TorchServe",
        "detect": "ts_inference_requests ts_queue_latency_microseconds",
        "model": "model_name",
        "port": "8082",
        "api_port": "8080",
        "images": "torchserve",
        "health": "/ping",
        "metrics": {
            "stage_duration_seconds_total{stage=request}": (
                "ts_inference_latency_microseconds / 1000000"
            ),
            "stage_duration_seconds_total{stage=queue}": "ts_queue_latency_microseconds / 1000000",
        },
        "notes": (
            "Needs metrics_mode=prometheus. ts_inference_requests_total includes rejected "
            "requests, "
            "and failures are counted for the host only: it has no outcomes. Durations are those "
            "of good requests, and of those that their client cancels."
        ),
    },
    "tfserving": {
        "title": "TensorFlow Serving",
        "detect": ":tensorflow:serving:request_count :tensorflow:serving:request_latency",
        "model": "model_name",
        "path": "/monitoring/prometheus/metrics",
        "port": "8501",
        "images": "tensorflow/serving tensorflow-serving",
        "metrics": {
            "requests_total{outcome=ok}": ':tensorflow:serving:request_count{status="OK"}',
            "requests_total{outcome=error}": ':tensorflow:serving:request_count{status!="OK"}',
            "request_duration_seconds": ":tensorflow:serving:request_latency / 1000000",
        },
        "notes": "Needs --monitoring_config_file. From its source; not run here.",
    },
    "opentelemetry": {
        "title": "OpenTelemetry gen_ai",
        "port": "9464",
        "detect": "gen_ai_server_request_duration_seconds "
        "gen_ai_server_time_to_first_token_seconds",
        "model": "gen_ai_response_model gen_ai_request_model",
        "metrics": {
            "request_duration_seconds": "gen_ai_server_request_duration_seconds",
            "time_to_first_token_seconds": "gen_ai_server_time_to_first_token_seconds",
            "time_per_output_token_seconds": "gen_ai_server_time_per_output_token_seconds",
        },
        "notes": "The semantic conventions, as a collector exports them. Not run here.",
    },
    "fastapi": {
        "title": "FastAPI (prometheus-fastapi-instrumentator)",
        "port": "8000",
        "detect": "http_requests http_request_duration_seconds",
        "metrics": {
            "requests_total{outcome=ok}": (
                f'http_requests_total{{handler!="{_NO_INFERENCE}",status="[123].*"}}'
            ),
            "requests_total{outcome=error}": (
                f'http_requests_total{{handler!="{_NO_INFERENCE}",status="[45].*"}}'
            ),
            "request_duration_seconds": (
                f'http_request_duration_seconds{{handler!="{_NO_INFERENCE}"}}'
            ),
        },
        "notes": (
            "It has no models. Handlers are added up, without those of probes; statuses are "
            "grouped, so a rejected request (429, 503) is an error, and a cancelled one, or a "
            "stream that breaks, ok."
        ),
    },
}
