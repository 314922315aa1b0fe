"""The log: one line per record, repeats suppressed, size limited, never blocking."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

import pytest

from exporter.errors import BadData, Internal, NotFound, Unreachable
from exporter.failure_log import FailureLog, LineBudget
from exporter.log import MAX_MESSAGE_LENGTH, _Formatter
from tests import clean_interpreter
from tests.clean_interpreter import COMMAND_LINE

PEER_TEXT = 'bad"\nlevel=error msg="forged\x1b[31m\\'


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("exporter", logging.WARNING, "", 0, "%s", (message,), None)


def test_text_of_a_peer_adds_no_line_and_no_field() -> None:
    line = _Formatter("logfmt").format(record(PEER_TEXT))
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.endswith(r'msg="bad\"\nlevel=error msg=\"forged\u001b[31m\\"')
    assert json.loads(_Formatter("json").format(record(PEER_TEXT)))["msg"] == PEER_TEXT
    assert "\n" not in _Formatter("json").format(record(PEER_TEXT))


def test_a_long_message_is_cut() -> None:
    assert len(_Formatter("logfmt").format(record("x" * 10_000_000))) < MAX_MESSAGE_LENGTH + 200


def test_repeated_messages_of_a_library_are_logged_once() -> None:
    program = """
import logging
from exporter import log
log.configure("info", "logfmt")
for n in range(5000):
    logging.getLogger("asyncio").error("socket.accept() out of system resource")
    logging.getLogger("aiohttp.server").error("Error handling request from %s", n)
    logging.getLogger("asyncio").error(f"Task 'Task-{n}' failed\\n<Task at 0x{n:x}f>")
logging.getLogger("exporter").info("own")
logging.getLogger("exporter").info("own")
log.flush(10)
"""
    done = clean_interpreter.run(program, after=COMMAND_LINE)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split("msg=")[1] for line in lines] == [
        '"socket.accept() out of system resource"',
        '"Error handling request from 0"',
        "\"Task 'Task-0' failed\\n<Task at 0x0f>\"",
        '"own"',
        '"own"',
    ]


def test_logging_does_not_block_while_standard_error_is_not_read() -> None:
    program = """
import logging, time
from exporter import log
log.configure("info", "logfmt")
started = time.monotonic()
for n in range(5000):
    logging.getLogger("exporter").info("%s", "x" * 1000)
print(time.monotonic() - started < 5)
import os; os._exit(0)
"""
    read_end, write_end = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=write_end,
            timeout=60,
            check=True,
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    assert done.stdout == b"True\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [time.monotonic()]
    monkeypatch.setattr("exporter.failure_log.time.monotonic", lambda: now[0])
    return now


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [r.getMessage() for r in caplog.records]
    caplog.clear()
    return messages


def test_a_lasting_failure_is_logged_once(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("fake", "a")
    for _ in range(720):  # an hour at an interval of 5 s
        source.failed(BadData("garbled"))
        clock[0] += 5
    assert logged(caplog) == ["fake a: bad_data: garbled"]
    source.succeeded()
    assert logged(caplog) == ["fake a: recovered"]
    for _ in range(720):
        source.succeeded([Unreachable("one target")])
        clock[0] += 5
    assert logged(caplog) == ["fake a: partial: unreachable: one target"]
    clock[0] += 601
    source.succeeded([Unreachable("one target")])
    assert logged(caplog) == ["fake a: partial: unreachable: one target"], (
        "not seen for REPEAT_AFTER"
    )


def test_a_flapping_failure_is_logged_once(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("fake", "a")
    for _ in range(360):
        source.failed(BadData("garbled"))
        clock[0] += 5
        source.succeeded()
        clock[0] += 5
    assert logged(caplog) == ["fake a: bad_data: garbled", "fake a: recovered"]


def test_each_kind_is_logged(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("fake")
    source.not_found(NotFound("no library", "install it"))
    source.not_found(NotFound("no library", "install it"))
    source.failed(BadData("garbled"))
    source.failed(Unreachable("connection refused", "start it"))
    source.failed(BadData("garbled"))
    source.succeeded()
    assert logged(caplog) == [
        "fake: not found: no library; install it",
        "fake: bad_data: garbled",
        "fake: unreachable: connection refused; start it",
        "fake: recovered",
    ]
    assert clock


def test_the_lines_about_all_targets_of_a_source_are_limited(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """A tenant may start containers with a server that fails, without end."""
    caplog.set_level(logging.INFO, "exporter")
    budget = LineBudget("fake")
    for number in range(1000):
        target = FailureLog("fake", f"t{number}", budget)
        target.failed(BadData("garbled"))
        clock[0] += 0.1
    lines = logged(caplog)
    assert lines[:-1] == [f"fake t{number}: bad_data: garbled" for number in range(50)]
    assert lines[-1] == (
        "fake: more than 50 failures of its targets: further ones are counted"
        " (inference_exporter_source_failures_total), and logged again in 595 s"
    )
    target.succeeded()
    assert not logged(caplog), "no recovery from a failure that was not logged"
    clock[0] += 600
    FailureLog("fake", "t", budget).failed(BadData("garbled"))
    assert logged(caplog) == ["fake t: bad_data: garbled"]


def test_a_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    bug = Internal("unexpected")
    bug.__cause__ = ZeroDivisionError("here")
    FailureLog("fake").failed(bug)
    expected = BadData("garbled")
    expected.__cause__ = KeyError("there")
    FailureLog("fake").failed(expected)
    assert [bool(r.exc_info) for r in caplog.records] == [True, False]
