"""The log: one line an event on standard error, as logfmt or JSON."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys

# A peer may answer megabytes of nonsense; what of it reaches the log is cut.
LONGEST_MESSAGE = 2000


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


def configure(level: str, style: str) -> None:
    """Set up the process's log. level: debug … error; style: logfmt or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries speak only of trouble
    logging.getLogger("exporter").setLevel(level.upper())
