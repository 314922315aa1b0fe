"""Load generator and acceptance test for model servers, with Python's standard library alone.

    python load.py [HOST:PORT]                        a day's traffic, compressed into ten minutes,
                                                      until it is stopped
    python load.py --requests=1300 [HOST:PORT]        a fixed plan, the same for a seed; prints the
                                                      ledger: the responses by status
    python load.py --requests=1300 --page=URL …       compares the ledger with the counters of a
                                                      metrics page; exit status 1 if they differ

Health checks, good and corrupt requests are sent as 1 : 10 : 2, to the demo's models on Triton
(--service=triton), to examples/wine-quality (--service=wine), or to your own server
(--service=FILE, README.md of this folder). Of the good requests to `generate` of Triton 1 % fail,
and 1 % get an error that Triton counts as a success.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CLIENTS = 4
PERIOD_SECONDS = 600.0
WEIGHTS = {"health": 1, "good": 10, "corrupt": 2}

# Ranges of the wines in examples/wine-quality.
WINE = {
    "alcohol": (8.0, 15.0),
    "volatile_acidity": (0.1, 1.2),
    "sulphates": (0.3, 1.5),
    "residual_sugar": (0.5, 15.0),
    "ph": (2.8, 4.0),
}


@dataclass(frozen=True, slots=True)
class Request:
    """kind: health, good or corrupt. body: JSON, or not quite; empty for GET."""

    kind: str
    path: str
    body: str = ""


Maker = Callable[[random.Random, str], Request]
"""Makes a request of a kind."""


def request_rate(now: float) -> float:
    """Returns a client's requests per second, 1 to 9. now: seconds."""
    return 5 + 3 * math.sin(2 * math.pi * now / PERIOD_SECONDS) + math.sin(now / 7)


# -- requests --


def tensor(name: str, shape: list[int], data: list[float | str]) -> dict[str, object]:
    return {"name": name, "shape": shape, "datatype": "FP32", "data": data}


def infer(kind: str, model: str, *inputs: object) -> Request:
    """Returns an inference request for a model (KServe v2)."""
    return Request(kind, f"/v2/models/{model}/infer", json.dumps({"inputs": inputs}))


def triton(choice: random.Random, kind: str) -> Request:
    """A request to the demo's models. Triton counts none of the corrupt ones anywhere."""
    if kind == "health":
        return Request(kind, "/v2/health/ready")
    images = choice.choice((1, 1, 2, 4))
    # One of three requests is the same: Triton's response cache may have its result.
    repeated = choice.random() < 1 / 3
    pixels: list[float | str] = [0.5 if repeated else choice.random() for _ in range(8 * images)]
    if kind == "corrupt":
        image = tensor("IMAGE", [images, 8], pixels)
        return choice.choice(
            (
                infer(kind, "classify", tensor("IMAGE", [images, 7], pixels[: 7 * images])),
                infer(kind, "classify", tensor("PICTURE", [images, 8], pixels)),
                infer(kind, "classify", tensor("IMAGE", [images, 8], ["bad data", *pixels[1:]])),
                infer(kind, "no-such-model", image),
                Request(kind, "/v2/models/classify/infer", '{"inputs": [{'),
            )
        )
    if choice.random() < 2 / 3:
        return infer(kind, "classify", tensor("IMAGE", [images, 8], pixels))
    tokens = float(choice.randint(5, 40))
    luck = choice.random()
    if luck < 0.02:  # too many, which the model raises for, or an error response
        tokens = 2000.0 if luck < 0.01 else -1.0
    return infer(kind, "generate", tensor("TOKENS", [1, 1], [tokens]))


def wine(choice: random.Random, kind: str, warmer: float = 0.0) -> Request:
    """A request to the wine service. warmer: 0 to 1, for wines of a hotter climate."""
    if kind == "health":
        return Request(kind, "/healthcheck")
    features: dict[str, float | str] = {
        name: round(choice.triangular(low, high), 3) for name, (low, high) in WINE.items()
    }
    features["alcohol"] = round(choice.triangular(8.0 + 4.0 * warmer, 15.0), 3)
    if kind == "corrupt":
        features[choice.choice(list(features))] = "bad data"
    return Request(kind, "/predict", json.dumps(features))


def warmer_later(start: float) -> Maker:
    """Wines of a hotter climate from a time of the monotonic clock on."""
    return lambda choice, kind: wine(choice, kind, warmer=float(time.monotonic() > start))


def from_file(path: Path) -> Maker:
    """Requests of a file: {"good": [{"path": "/predict", "body": …}, …], "health": …, …}.

    body: any JSON; a text is sent as it is; without one the request is a GET.
    """
    kinds = json.loads(path.read_text())

    def make(choice: random.Random, kind: str) -> Request:
        request = choice.choice(kinds[kind])
        body = request.get("body", "")
        return Request(kind, request["path"], body if isinstance(body, str) else json.dumps(body))

    return make


def plan(make: Maker, count: int, seed: int) -> list[Request]:
    """Returns the requests of a fixed plan: the same ones for the same seed."""
    choice = random.Random(seed)
    kinds = choice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    return [make(choice, kind) for kind in kinds]


# -- sending --


def send(connection: http.client.HTTPConnection, request: Request) -> int:
    """Sends a request; returns the status. Raises OSError, http.client.HTTPException."""
    connection.request(
        "POST" if request.body else "GET",
        request.path,
        request.body or None,
        {"Content-Type": "application/json"},
    )
    response = connection.getresponse()
    response.read()
    return response.status


def run_plan(address: str, requests: list[Request]) -> Counter[tuple[str, str]]:
    """Sends all requests by several clients. Returns the ledger: responses by (kind, status).

    A request without a response ends the run: whether the server counted it cannot be known.
    """
    ledger: Counter[tuple[str, str]] = Counter()
    failures: list[Exception] = []

    def client(part: list[Request]) -> None:
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            for request in part:
                if failures:
                    return
                ledger[request.kind, str(send(connection, request))] += 1
        except (OSError, http.client.HTTPException) as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [
        threading.Thread(target=client, args=(requests[number::CLIENTS],))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"no response from {address}: {failures[0]}")
    return ledger


def run_forever(address: str, make: Maker, stop: threading.Event) -> None:
    """Sends requests one at a time at the request rate, and continues after errors."""
    choice = random.Random()
    connection = http.client.HTTPConnection(address, timeout=10)
    while not stop.wait(choice.expovariate(request_rate(time.time()))):
        (kind,) = choice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        try:
            send(connection, make(choice, kind))
        except (OSError, http.client.HTTPException):
            connection.close()  # not running, or not yet: the next request reconnects
            stop.wait(1)
    connection.close()


# -- the counters of a page --

# By metric: the label of the status, and the labels that select the requests of the plan.
COUNTERS = {
    "http_requests_total": ("status", {}),
    "nginx_http_requests_total": ("code", {}),
    "envoy_cluster_upstream_rq": ("envoy_response_code", {}),
    "caddy_http_request_duration_seconds_count": ("code", {"handler": "reverse_proxy"}),
}
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(page: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields name, labels and value of the samples with labels."""
    for line in page.splitlines():
        match = _SAMPLE.match(line)
        if match is not None:
            yield match[1], dict(_LABEL.findall(match[2])), float(match[3])


def counted(url: str, counter: str, status_label: str, wanted: Mapping[str, str]) -> Counter[str]:
    """Returns the requests on a page by status."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the user's URL
        page = response.read().decode()
    counts: Counter[str] = Counter()
    for name, labels, value in samples(page):
        if name == counter and status_label in labels and wanted.items() <= labels.items():
            counts[labels[status_label]] += round(value)
    return counts


def compared(before: Counter[str], now: Counter[str], ledger: Counter[str]) -> list[str]:
    """Returns a line for each status: the ledger's and the page's count, and whether they agree."""
    lines = []
    for status in sorted({*ledger, *(now - before)}):
        increase = now[status] - before[status]
        verdict = "equal" if increase == ledger[status] else "DIFFERENT"
        lines.append(f"{status}: sent {ledger[status]}, counted {increase}: {verdict}")
    return lines


def accept(options: argparse.Namespace, make: Maker) -> int:
    """Runs the plan, prints the ledger, and compares it with the page. Returns the exit status."""
    label, wanted = COUNTERS.get(options.counter, ("status", {}))
    label = options.status_label or label
    wanted = {**wanted, **dict(text.split("=", 1) for text in options.match)}
    page = (options.page, options.counter, label, wanted)
    before = counted(*page) if options.page else Counter()
    requests = plan(make, options.requests, options.seed)
    ledger = run_plan(options.address, requests)
    by_status: Counter[str] = Counter()
    for (kind, status), count in sorted(ledger.items()):
        print(f"{kind:8}{status}: {count}")
        by_status[status] += count
    if not options.page:
        return 0
    # The page follows after a poll of the server, and of a proxy after its own flush.
    end = time.monotonic() + options.wait
    lines = compared(before, counted(*page), by_status)
    while any(map(differs, lines)) and time.monotonic() < end:
        time.sleep(0.2)
        lines = compared(before, counted(*page), by_status)
    print("\n".join(lines))
    return int(any(map(differs, lines)))


def differs(line: str) -> bool:
    return line.endswith("DIFFERENT")


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", nargs="?", default="localhost:8000", metavar="HOST:PORT")
    parser.add_argument("--service", default="triton", help="triton, wine, or a file of requests")
    parser.add_argument("--requests", type=int, help="number of requests of a fixed plan")
    parser.add_argument("--seed", type=int, default=1, help="of the plan (default: 1)")
    parser.add_argument("--page", help="URL of the metrics page to compare with")
    parser.add_argument("--counter", default="http_requests_total", help="counter on that page")
    parser.add_argument("--status-label", help="its label with the status (default: status)")
    parser.add_argument("--match", action="append", default=[], metavar="LABEL=VALUE")
    parser.add_argument("--wait", type=float, default=30, help="seconds for the page to follow")
    parser.add_argument(
        "--warmer-after", type=float, help="wine: seconds after which the wines differ"
    )
    return parser.parse_args()


def main() -> int:
    options = parsed_options()
    makers: dict[str, Maker] = {"triton": triton, "wine": wine}
    make = makers.get(options.service) or from_file(Path(options.service))
    if options.requests is not None:
        return accept(options, make)
    if options.warmer_after is not None:
        make = warmer_later(time.monotonic() + options.warmer_after)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threads = [
        threading.Thread(target=run_forever, args=(options.address, make, stop))
        for _ in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
