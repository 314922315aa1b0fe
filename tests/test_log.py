"""The log: one line an event whatever it holds, each kind once, never a flood, never a wait."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

import pytest

from exporter.errors import BadData, Internal, NotFound, Unreachable
from exporter.failure_log import FailureLog
from exporter.log import LONGEST_MESSAGE, _Formatter

PEER = 'bad"\nlevel=error msg="forged\x1b[31m\\'


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("exporter", logging.WARNING, "", 0, "%s", (message,), None)


def test_words_of_a_peer_make_no_second_line_and_no_second_field() -> None:
    line = _Formatter("logfmt").format(record(PEER))
    assert "\n" not in line
    assert "\x1b" not in line
    assert line.endswith(r'msg="bad\"\nlevel=error msg=\"forged\u001b[31m\\"')
    assert json.loads(_Formatter("json").format(record(PEER)))["msg"] == PEER
    assert "\n" not in _Formatter("json").format(record(PEER))


def test_a_long_message_is_cut() -> None:
    assert len(_Formatter("logfmt").format(record("x" * 10_000_000))) < LONGEST_MESSAGE + 200


def run(program: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=True
    )


def test_a_library_that_repeats_itself_is_heard_once() -> None:
    program = """
import logging
from exporter import log
log.configure("info", "logfmt")
for n in range(5000):
    logging.getLogger("asyncio").error("socket.accept() out of system resource")
    logging.getLogger("aiohttp.server").error("Error handling request from %s", n)
logging.getLogger("exporter").info("ours")
logging.getLogger("exporter").info("ours")
log.flush(10)
"""
    lines = run(program).stderr.decode().splitlines()
    assert [line.split("msg=")[1] for line in lines] == [
        '"socket.accept() out of system resource"',
        '"Error handling request from 0"',
        '"ours"',
        '"ours"',
    ]


def test_nobody_reading_the_log_holds_nothing_up() -> None:
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
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=writing,
            timeout=60,
            check=True,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.stdout == b"True\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [time.monotonic()]
    monkeypatch.setattr("exporter.failure_log.time.monotonic", lambda: now[0])
    return now


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    messages = [r.getMessage() for r in caplog.records]
    caplog.clear()
    return messages


def test_what_lasts_is_told_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("made", "a")
    for _ in range(720):  # an hour at an interval of 5 s
        source.failed(BadData("odd"))
        clock[0] += 5
    assert told(caplog) == ["made a: bad_data: odd"]
    source.succeeded()
    assert told(caplog) == ["made a: answers again"]
    for _ in range(720):
        source.succeeded([Unreachable("one of them")])
        clock[0] += 5
    assert told(caplog) == ["made a: in part: unreachable: one of them"]
    clock[0] += 601
    source.succeeded([Unreachable("one of them")])
    assert told(caplog) == ["made a: in part: unreachable: one of them"], "it was away for long"


def test_what_flaps_is_told_once(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("made", "a")
    for _ in range(360):
        source.failed(BadData("odd"))
        clock[0] += 5
        source.succeeded()
        clock[0] += 5
    assert told(caplog) == ["made a: bad_data: odd", "made a: answers again"]


def test_another_kind_is_told_too(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    source = FailureLog("made")
    source.absent(NotFound("none", "get one"))
    source.absent(NotFound("none", "get one"))
    source.failed(BadData("odd"))
    source.failed(Unreachable("away", "plug it in"))
    source.failed(BadData("odd"))
    source.succeeded()
    assert told(caplog) == [
        "made: not found: none; get one",
        "made: bad_data: odd",
        "made: unreachable: away; plug it in",
        "made: answers again",
    ]
    assert clock


def test_a_defect_is_told_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "exporter")
    defect = Internal("unexpected")
    defect.__cause__ = ZeroDivisionError("here")
    FailureLog("made").failed(defect)
    foreseen = BadData("odd")
    foreseen.__cause__ = KeyError("there")
    FailureLog("made").failed(foreseen)
    assert [bool(r.exc_info) for r in caplog.records] == [True, False]
