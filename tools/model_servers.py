"""Writes docs/model-servers.md from the profiles: `python -m tools.model_servers > FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exporter.model_server.engines import built_in_profiles
from exporter.model_server.profile import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    OUTCOME_KEYS,
    STAGE_KEYS,
    Expression,
    Profile,
)

_STAGES = {
    f"stage_duration_seconds_total{{stage={stage}}}": f"{stage}_duration_seconds"
    for stage in ("request", "queue", "prefill", "decode")
}
# The Triton source derives these from its reading.
_TRITON = {
    "requests_waiting": "`nv_inference_pending_request_count`; TensorRT-LLM: "
    '`nv_trt_llm_request_metrics{request_type="waiting"}`',
    "requests_running": 'TensorRT-LLM: `nv_trt_llm_request_metrics{request_type="scheduled"}`',
    "kv_cache_usage_ratio": "TensorRT-LLM: "
    '`nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}`',
    "requests_total{outcome=ok}": "statistics: `success.count`",
    "requests_total{outcome=error}": '`nv_inference_request_failure{reason="BACKEND|OTHER"}`; '
    "without its page `fail.count`, of every reason",
    "requests_total{outcome=rejected}": '`nv_inference_request_failure{reason="REJECTED"}`',
    "requests_total{outcome=cancelled}": '`nv_inference_request_failure{reason="CANCELED"}`',
    "request_duration_seconds": "statistics: `success.ns`, sums only",
    "queue_duration_seconds": "statistics: `queue.ns`, sums only",
}
_HEAD = Path(__file__).with_name("model_servers_head.md")


def page() -> str:
    """Returns docs/model-servers.md."""
    return "\n".join((_HEAD.read_text(), *_overview(), "", *_engines()))


def _overview() -> Iterator[str]:
    profiles = built_in_profiles()
    yield from ("## Engines and metrics", "")
    yield "`●` from the engine's page, `s` sums without buckets, empty: not reported."
    yield "The table of each engine below has the native families."
    yield ""
    yield f"| Metric | {' | '.join(profile.name for profile in profiles)} | triton |"
    yield f"| --- |{' --- |' * (len(profiles) + 1)}"
    for key in (*GAUGES, *COUNTERS, *OUTCOME_KEYS, *STAGE_KEYS, *HISTOGRAMS):
        marks = [_mark(profile, key) for profile in profiles]
        marks.append("" if key not in _TRITON and _STAGES.get(key) not in _TRITON else "●")
        if key in _TRITON and key in HISTOGRAMS:
            marks[-1] = "s"
        yield f"| `{key}` | {' | '.join(marks)} |"


def _mark(profile: Profile, key: str) -> str:
    if key in profile.metrics:
        return "s" if (profile.name, key) == ("mlserver", "request_duration_seconds") else "●"
    histogram = profile.metrics.get(_STAGES.get(key, ""))
    return "●" if histogram and histogram[0].with_sum else ""


def _engines() -> Iterator[str]:
    for profile in built_in_profiles():
        yield from (f"## {profile.title}", "", f"Engine `{profile.name}`. {profile.notes}", "")
        yield from ("| Metric | From |", "| --- | --- |")
        for key, expressions in profile.metrics.items():
            yield f"| `{key}` | {_native(expressions)} |"
        yield ""
        yield f"Missing: {', '.join(f'`{key}`' for key in _missing(profile.metrics))}."
        yield ""
    yield from ("## Triton", "")
    yield "Engine `triton`. Derived from the Triton source's reading, and from the page that the"
    yield "upstream source merges, without a request; its own `triton_*` stay. Versions of a model"
    yield "are added up. `--model-server.triton=false` turns it off."
    yield from ("", "| Metric | From |", "| --- | --- |")
    yield from (f"| `{key}` | {text} |" for key, text in _TRITON.items())


def _native(expressions: Sequence[Expression]) -> str:
    texts = []
    for expression in expressions:
        text = f"`{expression.text}`".replace("|", r"\|")
        if expression.since:
            text += f" since {expression.since}"
        if expression.until:
            text += f" until {expression.until}"
        texts.append(text if expression.with_sum else f"{text} without its sum")
    return ", else ".join(texts)


def _missing(metrics: Mapping[str, object]) -> list[str]:
    return [
        key for key in (*GAUGES, *COUNTERS, *OUTCOME_KEYS, *HISTOGRAMS) if key not in metrics
    ] or ["nothing"]


if __name__ == "__main__":
    sys.stdout.write(page())
