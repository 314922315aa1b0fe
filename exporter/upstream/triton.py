"""What of a Triton server's own metrics is worth having beside its statistics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from exporter.upstream.reading import QueueRow
from exporter.upstream.text_parser import WantedSample

PENDING = "nv_inference_pending_request_count"
FAILURES = "nv_inference_request_failure"
WANTED = frozenset((PENDING, FAILURES))

# The statistics tell these better (their counters are the same and their times are not truncated
# to microseconds), and NVML those of GPUs, which break under MIG.
BETTER_ELSEWHERE = re.compile(
    r"nv_(?:gpu|cpu|energy)_.*"
    r"|nv_inference_(?:request_success|count|exec_count)"
    r"|nv_inference_(?:request|queue|compute_input|compute_infer|compute_output)_duration_us"
    r"|nv_cache_(?:num_(?:hits|misses)|(?:hit|miss)_duration)(?:_us)?_per_model"
)


def is_triton(names: Iterable[str]) -> bool:
    """Whether a page is that of a Triton server, by the names of its families."""
    return any(name.startswith("nv_") for name in names)


def rows(server: str, samples: Iterable[WantedSample]) -> list[QueueRow]:
    """The rows of a server's models, from the samples of WANTED."""
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
            (server, *map(_unescaped, key)),
            pending.get(key),
            tuple((_unescaped(reason), n) for reason, n in failures.get(key, {}).items()),
        )
        for key in dict.fromkeys((*pending, *failures))
    ]


def _unescaped(text: str) -> str:
    """A label's value as it was before it was written into a page."""
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], text)
