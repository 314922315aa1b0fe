"""Runs programs as `python -c` does, each in a fork of a process that has imported nothing.

For tests of what a module imports, and of what must not happen in the process of pytest. The
modules of the exporter that programs begin with, their argument `after`, are imported once for all.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import IO

from tests import exporter_process
from tests.exporter_process import ExporterProcess

# Values of `after`: each has the modules of the one before.
REGISTRY = ("import exporter.registry",)
COMMAND_LINE = (*REGISTRY, "import exporter.cli")
DAEMON = (*COMMAND_LINE, "import exporter.app")

_SERVER = """
import sys
modules = frozenset(sys.modules)
import socket
from tests.fork_server import serve_programs
serve_programs(socket.socket(fileno=int(sys.argv[1])), modules)
"""


def run(
    program: str,
    *arguments: str,
    after: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    library_path: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in this folder; returns its exit code and output.

    after: statements executed before, in this order, by a process that the programs with the same
        ones share. They must start no thread.
    environment: replaces `os.environ`, but not for the interpreter, which runs already.
    library_path: its LD_LIBRARY_PATH; each has a process of its own.
    """

    def start_(stdout: IO[bytes], stderr: IO[bytes]) -> ExporterProcess:
        return start(
            program,
            *arguments,
            stdout=stdout,
            stderr=stderr,
            after=after,
            environment=environment,
            library_path=library_path,
        )

    return exporter_process.completed(["-c", program, *arguments], start_, timeout)


def start(
    program: str,
    *arguments: str,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    after: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    library_path: str | None = None,
) -> ExporterProcess:
    """Starts a program; its arguments are those of `run`."""
    request = {"program": program, "arguments": arguments, "after": after}
    environment = os.environ if environment is None else environment
    return exporter_process.send(server(library_path), request, stdout, stderr, environment)


@functools.cache
def server(library_path: str | None = None) -> socket.socket:
    """Returns the connection of the process that has imported nothing, started by the first call.

    It ends with the process of pytest that started it, and serves the forks of that process, too.
    """
    return exporter_process.start_server(library_path, "-c", _SERVER)
