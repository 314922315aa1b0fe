"""The log: one line an event on standard error, as logfmt or JSON."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler

# A peer may answer megabytes of nonsense; what of it reaches the log is cut.
LONGEST_MESSAGE = 2000
# Lines that may wait for a slow reader of standard error.
WAITING_RECORDS = 1000
# Seconds until a library may say the same again, and how many different lines are remembered.
REPEAT_LIBRARY = 600.0
MOST_LIBRARY_LINES = 100


class _Formatter(logging.Formatter):
    def __init__(self, style: str) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """One line: newlines and control characters from outside are escaped."""
        when = dt.datetime.fromtimestamp(record.created, dt.UTC)
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[:LONGEST_MESSAGE]}… ({len(message)} characters)"
        fields = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": message,
        }
        if self._json:
            return json.dumps(fields)
        return f"time={fields['time']} level={fields['level']} msg={_quoted(message)}"


def _quoted(message: str) -> str:
    """The message in quotes, printable whatever it holds; letters of any script stay letters."""
    shown = "".join(
        character
        if character.isprintable() and character not in '"\\'
        else json.dumps(character)[1:-1]
        for character in message
    )
    return f'"{shown}"'


_library_lines: dict[tuple[str, str], float] = {}


def _first_for_a_while(record: logging.LogRecord) -> bool:
    """Whether a library has not said the same lately: what a client can provoke fills no log."""
    now = time.monotonic()
    key = (record.name, str(record.msg)[:100])
    if now - _library_lines.get(key, -REPEAT_LIBRARY) < REPEAT_LIBRARY:
        return False
    if len(_library_lines) >= MOST_LIBRARY_LINES:
        _library_lines.clear()
    _library_lines[key] = now
    return True


class _Queue(QueueHandler):
    """Hands records to the writing thread: the event loop never waits for who reads the log.

    Where nobody reads, the queue fills up, and what does not fit any more is lost.
    """

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """As it is: formatting, which reads source files for a traceback, is the thread's work."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("exporter") and not _first_for_a_while(record):
            return
        with contextlib.suppress(queue.Full):  # see the class
            self.queue.put_nowait(record)


_records: queue.Queue[logging.LogRecord | threading.Event] = queue.Queue(WAITING_RECORDS)
_writer = logging.StreamHandler(sys.stderr)


def _write() -> None:
    while True:
        record = _records.get()
        if isinstance(record, threading.Event):
            record.set()
        else:
            _writer.handle(record)


_thread = threading.Thread(target=_write, name="log", daemon=True)


def configure(level: str, style: str) -> None:
    """Set up the process's log. level: debug … error; style: logfmt or json."""
    _writer.setFormatter(_Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [_Queue(_records)]
    root.setLevel(logging.WARNING)  # libraries speak only of trouble
    logging.getLogger("exporter").setLevel(level.upper())
    if not _thread.is_alive():
        _thread.start()


def flush(seconds: float) -> None:
    """Wait until what was said so far is written, but no longer than this."""
    written = threading.Event()
    with contextlib.suppress(queue.Full):  # nobody reads the log: nothing to wait for
        _records.put_nowait(written)
        if _thread.is_alive():
            written.wait(seconds)
