"""The log: one line per record on standard error, as logfmt or JSON."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import queue
import re
import sys
import threading
import time
from logging.handlers import QueueHandler

# Characters of a message: a peer may send megabytes.
MAX_MESSAGE_LENGTH = 2000
# Records that wait for a slow reader of standard error; further ones are dropped.
MAX_QUEUED_RECORDS = 1000
# Seconds before a library's message is logged again, and messages that are remembered for that.
LIBRARY_REPEAT_AFTER = 600.0
MAX_LIBRARY_MESSAGES = 100


class _Formatter(logging.Formatter):
    def __init__(self, style: str) -> None:
        super().__init__()
        self._json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one line; escapes newlines and control characters."""
        when = dt.datetime.fromtimestamp(record.created, dt.UTC)
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        if len(message) > MAX_MESSAGE_LENGTH:
            message = f"{message[:MAX_MESSAGE_LENGTH]}… ({len(message)} characters)"
        fields = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": message,
        }
        if self._json:
            return json.dumps(fields)
        return f"time={fields['time']} level={fields['level']} msg={_quoted(message)}"


def _quoted(message: str) -> str:
    """Returns the message in quotes, with non-printable characters escaped as in JSON."""
    escaped = "".join(
        character
        if character.isprintable() and character not in '"\\'
        else json.dumps(character)[1:-1]
        for character in message
    )
    return f'"{escaped}"'


_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+")

_library_messages: dict[tuple[str, str], float] = {}
"""When a message was last logged (monotonic seconds), by logger and message."""


def _not_repeated(record: logging.LogRecord) -> bool:
    """Whether a library's message was not logged in the last LIBRARY_REPEAT_AFTER seconds.

    Without that, clients could fill the log with messages of the libraries.
    """
    now = time.monotonic()
    # Without the numbers and objects in it, such as a task's name: these differ every time.
    key = (record.name, _NUMBERS.sub("", str(record.msg).partition("\n")[0])[:100])
    if now - _library_messages.get(key, -LIBRARY_REPEAT_AFTER) < LIBRARY_REPEAT_AFTER:
        return False
    if len(_library_messages) >= MAX_LIBRARY_MESSAGES:
        _library_messages.clear()
    _library_messages[key] = now
    return True


class _Queue(QueueHandler):
    """Queues records for the writer thread: the event loop never blocks on standard error.

    If standard error is not read, the queue fills up and further records are dropped.
    """

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Returns the record unformatted: a traceback reads source files, which the thread does."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("exporter") and not _not_repeated(record):
            return
        with contextlib.suppress(queue.Full):  # see the class
            self.queue.put_nowait(record)


_records: queue.Queue[logging.LogRecord | threading.Event] = queue.Queue(MAX_QUEUED_RECORDS)
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
    """Configures the root logger. level: debug … error; style: logfmt or json."""
    _writer.setFormatter(_Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [_Queue(_records)]
    root.setLevel(logging.WARNING)  # of libraries
    logging.getLogger("exporter").setLevel(level.upper())
    if not _thread.is_alive():
        try:
            _thread.start()
        except RuntimeError:  # a limit of threads: each caller writes its own records
            root.handlers[:] = [_writer]


def flush(seconds: float) -> None:
    """Waits until the queued records are written, at most `seconds`."""
    written = threading.Event()
    with contextlib.suppress(queue.Full):  # standard error is not read
        _records.put_nowait(written)
        if _thread.is_alive():
            written.wait(seconds)
