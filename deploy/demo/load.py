"""Load generator for the demo's models: a day's traffic curve compressed into ten minutes.

    python load.py [HOST:PORT]     runs until stopped; 1 % of the requests to `generate` fail,
                                   and 1 % get an error that Triton counts as a success

Uses only Python's standard library.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import signal
import sys
import threading
import time

CLIENTS = 4
PERIOD_SECONDS = 600.0


def request_rate(now: float) -> float:
    """Returns a client's requests per second, 1 to 9. now: seconds."""
    return 5 + 3 * math.sin(2 * math.pi * now / PERIOD_SECONDS) + math.sin(now / 7)


def request_body(model: str) -> str:
    """Returns an inference request for a model as JSON (KServe v2)."""
    if model == "classify":
        images = random.choice((1, 1, 2, 4))
        pixels = 8 * images
        # One of three requests is the same: Triton's response cache may have its result.
        repeated = random.random() < 1 / 3
        tensor = {
            "name": "IMAGE",
            "shape": [images, 8],
            "datatype": "FP32",
            "data": [0.5 if repeated else random.random() for _ in range(pixels)],
        }
    else:
        tokens = float(random.randint(5, 40))
        luck = random.random()
        if luck < 0.02:  # too many, which the model raises for, or an error response
            tokens = 2000.0 if luck < 0.01 else -1.0
        tensor = {"name": "TOKENS", "shape": [1, 1], "datatype": "FP32", "data": [tokens]}
    return json.dumps({"inputs": [tensor]})


def client(address: str, stop: threading.Event) -> None:
    """Sends requests one at a time at the request rate, and continues after errors."""
    connection = http.client.HTTPConnection(address, timeout=10)
    while not stop.wait(random.expovariate(request_rate(time.time()))):
        model = random.choice(("classify", "classify", "generate"))
        try:
            connection.request("POST", f"/v2/models/{model}/infer", request_body(model))
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()  # not running, or not yet: the next request reconnects
            stop.wait(1)
    connection.close()


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threads = [threading.Thread(target=client, args=(address, stop)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
