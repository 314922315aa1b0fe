"""Triton's own metrics: which to drop from the merge, and rows from the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable

from exporter.upstream.reading import QueueRow
from exporter.upstream.text_parser import WantedSample

PENDING = "nv_inference_pending_request_count"
FAILURES = "nv_inference_request_failure"
WANTED = frozenset((PENDING, FAILURES))

# The Triton source exports the same counters from the statistics, whose times are not truncated to
# microseconds; the GPU source exports NVML's values, while Triton's GPU metrics fail under MIG.
BETTER_ELSEWHERE = (
    r"nv_(?:gpu|cpu|energy)_.*"
    r"|nv_inference_(?:request_success|count|exec_count)"
    r"|nv_inference_(?:request|queue|compute_input|compute_infer|compute_output)_duration_us"
    r"|nv_cache_(?:num_(?:hits|misses)|(?:hit|miss)_duration)(?:_us)?_per_model"
)


def rows(server: str, samples: Iterable[WantedSample]) -> list[QueueRow]:
    """Returns the rows of a server's models from samples of the WANTED families."""
    pending: dict[tuple[str, str], float] = {}
    failures: dict[tuple[str, str], dict[str, float]] = {}
    for sample in samples:
        labels = dict(sample.labels)
        key = (labels.get("model", ""), labels.get("version", ""))
        if not all(key) or not 0 <= sample.value < float("inf"):
            continue
        if sample.name == PENDING:
            pending[key] = pending.get(key, 0) + sample.value
        else:
            by_reason = failures.setdefault(key, {})
            reason = labels.get("reason", "")
            by_reason[reason] = by_reason.get(reason, 0) + sample.value
    return [
        QueueRow(
            (server, *map(_unescape, key)),
            pending.get(key),
            tuple((_unescape(reason), count) for reason, count in failures.get(key, {}).items()),
        )
        for key in dict.fromkeys((*pending, *failures))
    ]


def _unescape(text: str) -> str:
    """Returns a label value without the text format's escapes."""
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
