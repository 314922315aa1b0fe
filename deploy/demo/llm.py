"""A simulated language model server: vLLM's metrics page, of requests that no client sends.

    python llm.py PORT

No model is loaded. Requests arrive at random, at a rate that rises and falls; each has a prompt, a
time to the first token and a generated text, which it observes as vLLM 0.11 does. Of 100 requests
one fails and one is aborted. The model is named `simulated-llm`, the process `simulated-llm`.

Uses only Python's standard library.
"""

from __future__ import annotations

import json
import math
import random
import sys
import threading
import time
from bisect import bisect_left
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = "simulated-llm"
VERSION = "0.11.0"
CONTEXT = 8192
KV_CACHE_TOKENS = 8000
TICK_SECONDS = 0.25
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)
TOKENS = (10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
HISTOGRAMS = {
    "time_to_first_token_seconds": SECONDS,
    "inter_token_latency_seconds": (0.001, 0.0025, 0.005, *SECONDS),
    "request_time_per_output_token_seconds": (0.001, 0.0025, 0.005, *SECONDS),
    "e2e_request_latency_seconds": SECONDS,
    "request_queue_time_seconds": SECONDS,
    "request_prefill_time_seconds": SECONDS,
    "request_decode_time_seconds": SECONDS,
    "request_prompt_tokens": TOKENS,
    "request_generation_tokens": TOKENS,
}
COUNTERS = (
    *("prompt_tokens_total", "generation_tokens_total", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total"),
)
REASONS = ("stop", "length", "error", "abort")


class Histogram:
    """Counts by upper bound, the last without one, and the sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def lines(self, name: str) -> list[str]:
        total, lines = 0, [f"# TYPE vllm:{name} histogram"]
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            le = "+Inf" if bound == math.inf else bound
            lines.append(f'vllm:{name}_bucket{{model_name="{MODEL}",le="{le}"}} {total}')
        lines.append(f'vllm:{name}_count{{model_name="{MODEL}"}} {total}')
        lines.append(f'vllm:{name}_sum{{model_name="{MODEL}"}} {self.sum!r}')
        return lines


class Engine:
    """The state of the simulated server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._histograms = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._finished = dict.fromkeys(REASONS, 0)
        self._running: list[tuple[float, int]] = []
        """End, and tokens in the KV cache, of each running request."""

    def tick(self, now: float) -> None:
        """Admits the requests that arrived in the last tick."""
        rate = 2.5 + 2 * math.sin(2 * math.pi * now / 300)
        with self._lock:
            self._running = [request for request in self._running if request[0] > now]
            for _ in range(sum(random.random() < rate * TICK_SECONDS / 8 for _ in range(8))):
                self._serve(now)

    def _serve(self, now: float) -> None:
        prompt = min(CONTEXT, int(random.lognormvariate(5, 0.8)) + 1)
        generated = min(1000, int(random.lognormvariate(4.5, 0.7)) + 1)
        queue = 0.002 * len(self._running) * random.random()
        prefill = 0.02 + prompt * 0.0002
        between = random.lognormvariate(math.log(0.012 + 0.0008 * len(self._running)), 0.2)
        decode = between * generated
        self._running.append((now + queue + prefill + decode, prompt + generated))
        counters, observe = self._counters, self._observe
        cached = int(prompt * random.uniform(0.1, 0.6))
        counters["prompt_tokens_total"] += prompt
        counters["prefix_cache_queries_total"] += prompt
        counters["prefix_cache_hits_total"] += cached
        counters["generation_tokens_total"] += generated
        counters["num_preemptions_total"] += self._kv_cache_usage() > 0.8
        reason = random.choices(REASONS, (80, 18, 1, 1))[0]
        self._finished[reason] += 1
        observe("time_to_first_token_seconds", queue + prefill)
        self._histograms["inter_token_latency_seconds"].observe(between, max(1, generated - 1))
        observe("request_time_per_output_token_seconds", between)
        observe("e2e_request_latency_seconds", queue + prefill + decode)
        observe("request_queue_time_seconds", queue)
        observe("request_prefill_time_seconds", prefill)
        observe("request_decode_time_seconds", decode)
        observe("request_prompt_tokens", prompt)
        observe("request_generation_tokens", generated)

    def _observe(self, name: str, value: float) -> None:
        self._histograms[name].observe(value)

    def _kv_cache_usage(self) -> float:
        return min(1.0, sum(tokens for _, tokens in self._running) / KV_CACHE_TOKENS)

    def page(self) -> str:
        """Returns the page in Prometheus' text format."""
        with self._lock:
            running = min(len(self._running), 8)
            gauges = {
                "num_requests_running": running,
                "num_requests_waiting": len(self._running) - running,
                "kv_cache_usage_perc": round(self._kv_cache_usage(), 6),
            }
            lines = []
            for kind, values in (("gauge", gauges), ("counter", self._counters)):
                for name, value in values.items():
                    lines.append(f"# TYPE vllm:{name} {kind}")
                    lines.append(f'vllm:{name}{{model_name="{MODEL}"}} {value}')
            lines.append("# TYPE vllm:request_success_total counter")
            for reason, count in self._finished.items():
                labels = f'model_name="{MODEL}",finished_reason="{reason}"'
                lines.append(f"vllm:request_success_total{{{labels}}} {count}")
            for name, histogram in self._histograms.items():
                lines += histogram.lines(name)
        return "\n".join(lines) + "\n"


def handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    model = {"id": MODEL, "object": "model", "max_model_len": CONTEXT}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            replies = {
                "/metrics": engine.page,
                "/health": str,
                "/version": lambda: json.dumps({"version": VERSION}),
                "/v1/models": lambda: json.dumps({"object": "list", "data": [model]}),
            }
            reply = replies.get(self.path.partition("?")[0])
            body = reply().encode() if reply is not None else b""
            self.send_response(200 if reply is not None else 404)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    return Handler


def main() -> None:
    with suppress(OSError):  # no such file in a sandbox: then no process uses its GPUs
        Path("/proc/self/comm").write_text(MODEL)
    engine = Engine()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler(engine))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        engine.tick(time.time())
        time.sleep(TICK_SECONDS)


if __name__ == "__main__":
    main()
