"""A process that has imported the exporter and forks a new one for each request.

Importing all modules takes most of the CPU time of a start, and the tests start hundreds of
processes. `tests.exporter_process` runs it as `python -m tests.fork_server FD`, with FD its end of
a socket pair. A request is a JSON object (arguments, environment, folder) with three descriptors:
standard output, standard error, and a pipe that gets the process ID and, at the end, the status as
`os.waitpid` returns it.

`tests.clean_interpreter` runs it in a process that has imported nothing, where a request has two
more members: `program`, Python's text, and `after`, a list of statements. The first request after a
statement forks a further server, which executes it once.
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
from collections.abc import Callable, Collection
from types import ModuleType
from typing import cast

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
    exporter = importlib.import_module("exporter")
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


def fork() -> int:
    """Forks as os.fork, but a thread that was not yet started, as of the log, can be started later.

    Python marks in the child all other threads that exist as stopped.
    """
    if threading := sys.modules.get("threading"):
        for thread in list(threading._dangling):
            if thread.ident is None:
                threading._dangling.discard(thread)
    return os.fork()


class Server:
    """Forks for each request."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._status_pipes: dict[int, int] = {}
        """By the process."""
        self._servers: dict[str, socket.socket] = {}
        """The further servers, by the statement that each executed."""

    def serve(self) -> dict[str, object]:
        """Returns the request, in the child; exits when the client has gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken)
        selector = selectors.DefaultSelector()
        selector.register(self._requests, selectors.EVENT_READ)
        selector.register(self._wake, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._report_ended()
            if self._requests not in ready:
                continue
            body, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST, 3)
            if not body:
                self._requests.close()
                selector.close()
                sys.exit()
            request = json.loads(body)
            if after := request.get("after"):
                child = self._pass_on(request, after, descriptors)
            else:
                child = self._start(request, descriptors)
            if child:
                selector.close()
                return child()
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(
        self, request: dict[str, object], descriptors: list[int]
    ) -> Callable[[], dict[str, object]] | None:
        """Returns a function in the child, which takes the descriptors and returns the request."""
        stdout, stderr, status = descriptors
        pid = fork()
        if pid:
            os.write(status, b"%d\n" % pid)
            self._status_pipes[pid] = os.dup(status)
            return None
        self._close()
        os.close(status)

        def take() -> dict[str, object]:
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.close(stdout)
            os.close(stderr)
            return request

        return take

    def _pass_on(
        self, request: dict[str, object], after: list[str], descriptors: list[int]
    ) -> Callable[[], dict[str, object]] | None:
        """Passes a request to a further server; in that server, returns its function."""
        statement, *request["after"] = after
        if statement not in self._servers:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if fork() == 0:
                self._close()
                for descriptor in (ours.detach(), *descriptors):
                    os.close(descriptor)
                return lambda: serve_after(statement, theirs)
            theirs.close()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
            self._servers[statement] = ours
        try:
            socket.send_fds(self._servers[statement], [json.dumps(request).encode()], descriptors)
        except OSError:  # its statement ended it: this request fails, the next starts another
            self._servers.pop(statement).close()
        return None

    def _close(self) -> None:
        """Leaves nothing of this server in a child."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        own = (self._requests.detach(), self._wake, self._woken)
        for descriptor in (*own, *self._status_pipes.values()):
            os.close(descriptor)
        for server in self._servers.values():
            server.close()

    def _report_ended(self) -> None:
        while self._status_pipes:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            pipe = self._status_pipes.pop(pid, None)
            if pipe is None:  # a further server
                continue
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, b"%d\n" % status)
            os.close(pipe)


def serve_after(statement: str, requests: socket.socket) -> dict[str, object]:
    """Executes the statement, then serves; raises its exception in the process of each request."""
    failure = None
    try:
        exec(statement, {})  # noqa: S102 - a test's own statement
    except Exception as error:  # noqa: BLE001 - raised below
        failure = error
    request = Server(requests).serve()
    if failure is not None:
        raise failure
    return request


def serve_programs(requests: socket.socket, modules: Collection[str]) -> None:
    """Serves in a process that had these modules before it imported this one; it has them again.

    A module that is imported a second time, such as `json`, shares nothing with its first copy.
    """
    for name in sys.modules.keys() - modules:
        del sys.modules[name]
    request = Server(requests).serve()
    _enter(request)
    main_module = ModuleType("__main__")
    sys.modules["__main__"] = main_module
    sys.argv[:] = ["-c", *cast("list[str]", request["arguments"])]
    exec(cast("str", request["program"]), main_module.__dict__)  # noqa: S102 - a test's program


def _enter(request: dict[str, object]) -> None:
    os.environ.clear()
    os.environ.update(cast("dict[str, str]", request["environment"]))
    os.chdir(str(request["folder"]))


def main() -> None:
    record_no_stacks()
    import_all()
    gc.collect()
    gc.freeze()
    request = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    _enter(request)
    options = sys.orig_argv[1 : sys.orig_argv.index("-m")]
    # A restart executes this command line.
    sys.orig_argv[1:] = [*options, "-m", "exporter", *arguments]
    sys.argv[1:] = arguments
    runpy.run_module("exporter", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
