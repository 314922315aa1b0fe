"""A model server with known work on a GPU: `python working_server.py PORT BUSY PERIOD [cuda]`.

Serves a page with llama.cpp's names. With `cuda` it keeps all multiprocessors of the first GPU busy
for BUSY of every PERIOD milliseconds, by a kernel that spins, and counts a token for each
millisecond; without, it only listens. Starts when a line arrives on standard input.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Spins for a number of nanoseconds.
PTX = b"""
.version 6.5
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 spin_ns)
{
    .reg .u64 %rd<4>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [spin_ns];
    mov.u64 %rd2, %globaltimer;
AGAIN:
    mov.u64 %rd3, %globaltimer;
    sub.u64 %rd3, %rd3, %rd2;
    setp.lt.u64 %p1, %rd3, %rd1;
    @%p1 bra AGAIN;
    ret;
}
\0"""
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
busy_milliseconds = 0


class Gpu:
    """The first GPU, by the CUDA driver's library."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._kernel, count = ctypes.c_void_p(), ctypes.c_int()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDeviceGetAttribute", ctypes.byref(count), _MULTIPROCESSORS, device)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuModuleLoadData", ctypes.byref(module), PTX)
        self._call("cuModuleGetFunction", ctypes.byref(self._kernel), module, b"spin")
        self._blocks = 2 * count.value

    def spin(self, milliseconds: int) -> None:
        """Keeps all multiprocessors busy; returns afterwards."""
        nanoseconds = ctypes.c_uint64(milliseconds * 1_000_000)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(nanoseconds))
        sizes = (self._blocks, 1, 1, 256, 1, 1, 0)
        self._call("cuLaunchKernel", self._kernel, *sizes, None, arguments, None)
        self._call("cuCtxSynchronize")

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            sys.exit(f"{name}: CUDA error {code}")


class Page(BaseHTTPRequestHandler):
    """The metrics page, also as /health."""

    def do_GET(self) -> None:
        body = (
            "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
            f"llamacpp:tokens_predicted_total {busy_milliseconds}\n"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


def main() -> None:
    global busy_milliseconds  # noqa: PLW0603 - the page shows it
    port, busy, period = map(int, sys.argv[1:4])
    sys.stdin.readline()
    gpu = Gpu() if "cuda" in sys.argv else None
    server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while gpu is not None:
        started = time.monotonic()
        gpu.spin(busy)
        busy_milliseconds += busy
        time.sleep(max(0.0, period / 1000 - (time.monotonic() - started)))
    threading.Event().wait()


if __name__ == "__main__":
    main()
