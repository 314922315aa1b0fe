"""Runs the tests in processes forked after their collection: `-p tests.forked_workers --forks 4`.

A group of tests (tests/conftest.py) runs in one worker, the slow groups start first, and session
fixtures are created once for each group that uses them. pytest-xdist would import and collect all
tests in each of its workers, and each would start its own fork servers: 35 s of CPU time, of the
150 s of `make quick`; and it gives a worker its next group while a slow one still runs.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, cast

import pytest

from tests.conftest import SLOW_GROUPS, group

MEMORY, MIN_FREE = "/dev/shm", 2 << 30  # noqa: S108 - pytest makes its own folder in it, as in /tmp
_NAME_BYTES = 4  # of a group's number in the queue
_SHOWN_SECONDS = 0.005  # by --durations, if nothing else is set
# Seconds in which the `finally` blocks of a test end before another interrupt is heeded. There is
# another, as Python ignores an exception in a callback, such as of a weak reference.
HEEDED_AGAIN_AFTER = 20.0
_REPEATED_SECONDS = 1.0
# For the ends of the fixtures of an interrupted worker, such as engines and virtual machines.
_INTERRUPTED_SECONDS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", type=int, default=0, help="worker processes (0: none)")
    parser.addoption(
        "--memory-folders",
        action="store_true",
        help=f"temporary folders in {MEMORY}, if it has room",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Folders and files in memory cost a fifth of the CPU time of those on a disk."""
    if config.getoption("memory_folders") and _may_hold_temporary_folders(MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    if config.getoption("forks"):
        gc.disable()  # the collection of the tests makes little garbage and many objects


def _may_hold_temporary_folders(folder: str) -> bool:
    try:
        system = os.statvfs(folder)
    except OSError:
        return False
    free = system.f_bavail * system.f_frsize
    return not system.f_flag & os.ST_NOEXEC and free > MIN_FREE and os.access(folder, os.W_OK)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Starts the fork servers early: the collection leaves them a CPU."""
    options = collector.config.option
    if options.forks and not options.collectonly:
        _start_fork_servers()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    gc.enable()
    count = session.config.getoption("forks")
    if not count or session.config.option.collectonly or session.testsfailed:
        return None  # pytest's own loop
    Run(session, count).run()
    return True


class Run:
    """The workers of one run, and the reports they send.

    A worker sends the number of a test when it starts, and (number, reports) at its end.
    """

    def __init__(self, session: pytest.Session, count: int) -> None:
        self._session = session
        self._groups = _groups(session.items)
        self._queue = _filled_queue(len(self._groups))
        self._unfinished = set(range(len(session.items)))
        self._processes: list[ForkProcess] = []
        self._running: dict[Connection, int | None] = {}
        """The test that each worker runs."""
        _start_fork_servers()
        # The parent directory, before the workers create theirs inside.
        _temporary_folders(session).getbasetemp()
        # What exists now stays: a garbage collection in a worker need not look at it, nor copy its
        # pages. Rare ones: hypothesis makes many objects, and has a callback for each collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        for number in range(min(count, len(self._groups))):
            self._start_worker(number)

    def _start_worker(self, number: int) -> None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._work, args=(number, sender), name=f"worker {number}")
        process.start()
        sender.close()  # the worker has the only one: its end is an EOFError
        self._processes.append(process)
        self._running[receiver] = None

    # -- in the parent process --

    def run(self) -> None:
        """Logs the reports. Raises pytest.Session.Failed for a worker that fails."""
        try:
            while self._running:
                for ready in wait(list(self._running)):
                    self._receive(cast("Connection", ready))
            for process in self._processes:
                process.join()
        finally:
            self._interrupt_workers()
        for number in sorted(self._unfinished):
            self._log_not_run(number, "not run: its worker has ended")
        codes = [process.exitcode for process in self._processes]
        if any(codes):
            self._session.shouldfail = f"exit codes of the workers: {codes}"
            raise self._session.Failed(self._session.shouldfail)

    def _interrupt_workers(self) -> None:
        """Ends the workers that still run, after -x or Ctrl-C, and waits for their fixtures."""
        deadline = time.monotonic() + _INTERRUPTED_SECONDS
        while running := [process for process in self._processes if process.is_alive()]:
            for process in running:
                if time.monotonic() < deadline:
                    os.kill(cast("int", process.pid), signal.SIGINT)
                else:
                    process.kill()
            wait([process.sentinel for process in running], _REPEATED_SECONDS)

    def _receive(self, receiver: Connection) -> None:
        try:
            message = receiver.recv()
        except EOFError:
            number = self._running.pop(receiver)
            if number is not None:
                self._log_not_run(number, "the worker ended during this test")
            return
        if isinstance(message, int):
            self._running[receiver] = message
            return
        self._running[receiver] = None
        number, contents = message
        hook = self._session.config.hook
        reports = [
            hook.pytest_report_from_serializable(config=self._session.config, data=content)
            for content in contents
        ]
        self._log(number, reports)

    def _log(self, number: int, reports: Sequence[pytest.TestReport]) -> None:
        self._unfinished.discard(number)
        item = self._session.items[number]
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _log_not_run(self, number: int, reason: str) -> None:
        item = self._session.items[number]
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", reason, "call")
        self._log(number, [report])

    # -- in a worker --

    def _work(self, worker: int, sender: Connection) -> None:
        """Runs groups until the queue is empty, or the parent process interrupts it."""
        signal.signal(signal.SIGINT, Interrupts().handle)
        session, plugins = self._session, self._session.config.pluginmanager
        capture: Any = plugins.get_plugin("capturemanager")
        capture.stop_global_capturing()  # into files that the workers would share
        capture.start_global_capturing()
        capture.suspend_global_capture()
        reporter: Any = plugins.unregister(name="terminalreporter")
        plugins.register(Terminal(reporter._tw), "terminalreporter")
        temporary = _temporary_folders(session)
        temporary._basetemp = temporary.mktemp(f"worker-{worker}", numbered=False)
        try:
            self._run_groups(sender)
        except KeyboardInterrupt:
            # The next ones, as of Ctrl-C and the parent, must not stop the fixtures.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(128 + signal.SIGINT)  # without a traceback for each worker
        finally:
            session._setupstate.teardown_exact(None)
            session.config.hook.pytest_unconfigure(config=session.config)

    def _run_groups(self, sender: Connection) -> None:
        session = self._session
        reports = Reports(session.config)
        session.config.pluginmanager.register(reports)
        while name := os.read(self._queue, _NAME_BYTES):
            numbers = self._groups[int(name)]
            items = [session.items[number] for number in numbers]
            # At the end of a group no fixture stays: the engines and servers of a session would
            # take CPU time until the end of the worker.
            for number, item, following in zip(numbers, items, (*items[1:], None), strict=True):
                sender.send(number)
                item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
                sender.send((number, reports.take()))


class Interrupts:
    """Handles SIGINT, which Ctrl-C and then the parent send, and the parent repeats."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def handle(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._last >= HEEDED_AGAIN_AFTER:
            self._last = now
            raise KeyboardInterrupt


class Terminal:
    """Plugin of a worker in place of pytest's reporter, whose writer pytest-timeout uses."""

    def __init__(self, writer: object) -> None:
        self._tw = writer


class Reports:
    """Plugin of a worker: the reports of the test that runs, as `Connection.send` takes them.

    Without those of a set-up or an end that passed at once, two of three: nothing but `-rP`,
    `--durations=0 -vv` and files such as JUnit's would show them.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reports: list[Any] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.passed and report.when != "call" and report.duration < _SHOWN_SECONDS:
            return
        hook = self._config.hook
        self._reports.append(hook.pytest_report_to_serializable(config=self._config, report=report))

    def take(self) -> list[Any]:
        taken, self._reports = self._reports, []
        return taken


def _groups(items: Sequence[pytest.Item]) -> list[list[int]]:
    """Returns the numbers of the tests of each group, the slow groups first."""
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(group(item.nodeid), []).append(number)
    rank = {name: i for i, name in enumerate(SLOW_GROUPS)}
    return [groups[name] for name in sorted(groups, key=lambda name: rank.get(name, len(rank)))]


def _filled_queue(groups: int) -> int:
    """Returns the end of a pipe from which each worker reads the number of its next group."""
    reader, writer = os.pipe()
    os.write(writer, b"".join(b"%*d" % (_NAME_BYTES, number) for number in range(groups)))
    os.close(writer)
    return reader


def _start_fork_servers() -> None:
    """Starts those that tests use: the workers share them."""
    if clean := sys.modules.get("tests.clean_interpreter"):
        clean.server()
    if process := sys.modules.get("tests.exporter_process"):
        library_path = os.environ.get("LD_LIBRARY_PATH")
        for development_mode in (True, False):
            process.fork_server(development_mode, library_path)
        if (standin := sys.modules.get("tests.fakes.nvml.standin")) and shutil.which("gcc"):
            process.fork_server(True, str(standin.library().parent))


def _temporary_folders(session: pytest.Session) -> Any:
    """Returns the TempPathFactory of the fixture `tmp_path`."""
    return session.config._tmp_path_factory  # type: ignore[attr-defined]  # set by pytest
