"""A load on the demo's models that waxes and wanes as a day's traffic does, in ten minutes.

    python load.py [HOST:PORT]     until it is stopped; one of a hundred text requests fails

Uses nothing but Python's own library.
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
PERIOD = 600.0


def pace(now: float) -> float:
    """Requests a second of one client, 1 to 9. now: seconds."""
    return 5 + 3 * math.sin(2 * math.pi * now / PERIOD) + math.sin(now / 7)


def body(model: str) -> str:
    """A request for a model, in the words of the inference protocol."""
    if model == "classify":
        images = random.choice((1, 1, 2, 4))
        tensor = {
            "name": "IMAGE",
            "shape": [images, 8],
            "datatype": "FP32",
            "data": [random.random() for _ in range(8 * images)],
        }
    else:
        tokens = -1.0 if random.random() < 0.01 else float(random.randint(5, 40))
        tensor = {"name": "TOKENS", "shape": [1, 1], "datatype": "FP32", "data": [tokens]}
    return json.dumps({"inputs": [tensor]})


def client(address: str, stop: threading.Event) -> None:
    """Send requests one after the other at the pace, through whatever the server does."""
    connection = http.client.HTTPConnection(address, timeout=10)
    while not stop.wait(random.expovariate(pace(time.time()))):
        model = random.choice(("classify", "classify", "generate"))
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body(model))
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()  # not there, or not yet: the next request asks anew
            stop.wait(1)
    connection.close()


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clients = [threading.Thread(target=client, args=(address, stop)) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()


if __name__ == "__main__":
    main()
