"""Passes requests on to a Triton without GPUs, whose models it says to be on GPUs.

    python gpu_config.py PORT TRITON_PORT GPUS

A Triton built for CPUs rejects models with instances on GPUs. So the exporter asks this server,
which replaces KIND_CPU in the configuration of each model: one instance on each GPU.
"""

from __future__ import annotations

import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEPT = ("Content-Type", "Inference-Header-Content-Length")


def on_gpus(config: bytes, gpus: int) -> bytes:
    """Returns a model's configuration with one instance on each GPU."""
    document = json.loads(config)
    for group in document.get("instance_group", ()):
        group |= {"kind": "KIND_GPU", "gpus": list(range(gpus)), "count": 1}
    return json.dumps(document).encode()


def handler(triton_port: int, gpus: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            connection = http.client.HTTPConnection("127.0.0.1", triton_port, timeout=10)
            try:
                connection.request(self.command, self.path, body)
                response = connection.getresponse()
                content = response.read()
            except OSError:
                self.send_error(502)
                return
            finally:
                connection.close()
            if self.path.endswith("/config") and response.status == 200:
                content = on_gpus(content, gpus)
            self.send_response(response.status)
            for name in KEPT:
                if value := response.headers.get(name):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the standard library's name

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    return Handler


def main() -> None:
    port, triton_port, gpus = map(int, sys.argv[1:])
    ThreadingHTTPServer(("127.0.0.1", port), handler(triton_port, gpus)).serve_forever()


if __name__ == "__main__":
    main()
