"""A process that has imported the exporter and forks a new one for each request.

Importing all modules takes most of the CPU time of a start, and the tests start hundreds of
processes. `tests.exporter_process` runs it as `python -m tests.fork_server FD`, with FD its end of
a socket pair. A request is a JSON object (arguments, environment, folder) with three descriptors:
standard output, standard error, and a pipe that gets the process ID and, at the end, the status as
`os.waitpid` returns it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import traceback

import exporter

MAX_REQUEST = 1 << 20
# Packages of the extras, which a machine of the tests may lack.
OPTIONAL = ("google", "grpc")


def record_no_stacks() -> None:
    """Makes asyncio's debug mode (-X dev) record no stack for each future, task and callback.

    They are half of the CPU time of that mode, and only tell where an object of a warning was
    created: start `python -X dev -m exporter` to see it. All checks and warnings stay.
    """

    def no_stack(*_: object) -> traceback.StackSummary:
        return traceback.StackSummary()

    # Before the first import of asyncio: its futures, in C, keep the function.
    traceback.extract_stack = no_stack  # type: ignore[assignment]  # without its parameters
    asyncio = importlib.import_module("asyncio")
    asyncio.format_helpers.extract_stack = no_stack
    asyncio.constants.DEBUG_STACK_DEPTH = 1  # of coroutines, in C


def import_all() -> None:
    """Imports every module of the exporter, and with them the libraries; reads the declarations."""
    for module in pkgutil.walk_packages(exporter.__path__, "exporter."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in OPTIONAL:
                    raise
    for library in ("re2", "bcrypt"):  # imported by functions
        importlib.import_module(library)
    importlib.import_module("exporter.config").options()


def serve(requests: socket.socket) -> dict[str, object]:
    """Forks for each request. Returns the request, in the child; exits when the client has gone."""
    status_pipes: dict[int, int] = {}
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    while True:
        ready = [key.fileobj for key, _ in selector.select()]
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            _report_ended(status_pipes)
        if requests not in ready:
            continue
        body, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not body:
            requests.close()
            selector.close()
            sys.exit()
        stdout, stderr, status = descriptors
        pid = os.fork()
        if pid == 0:
            selector.close()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (requests.detach(), wake, woken, status, *status_pipes.values()):
                os.close(descriptor)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            request: dict[str, object] = json.loads(body)
            return request
        os.close(stdout)
        os.close(stderr)
        os.write(status, b"%d\n" % pid)
        status_pipes[pid] = status


def _report_ended(status_pipes: dict[int, int]) -> None:
    while status_pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = status_pipes.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, b"%d\n" % status)
        os.close(pipe)


def main() -> None:
    record_no_stacks()
    import_all()
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    environment, arguments = request["environment"], request["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    options = sys.orig_argv[1 : sys.orig_argv.index("-m")]
    # A restart executes this command line.
    sys.orig_argv[1:] = [*options, "-m", "exporter", *arguments]
    sys.argv[1:] = arguments
    runpy.run_module("exporter", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
