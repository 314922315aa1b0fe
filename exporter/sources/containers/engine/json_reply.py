"""The decoder of the engine's JSON replies: bounded in values before any of them is built. Pure."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from exporter.errors import BadData

# Values (elements of arrays, members of objects) of one reply. Each may take some 200 bytes.
MAX_VALUES, MAX_LIST_VALUES = 100_000, 500_000
# `\ud800` alone is no character. Escaped backslashes and valid pairs match first, and are kept.
_LONE_SURROGATE = re.compile(
    rb"(\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)

T = TypeVar("T")


def decode_reply(reply: bytes, struct: type[T], subject: str, max_values: int = MAX_VALUES) -> T:
    """Returns the reply as `struct`; invalid characters are replaced.

    Raises BadData, naming the first mismatch, also for more values than the limit.
    """
    if sum(map(reply.count, (b",", b"[", b"{"))) > max_values:
        raise BadData(f"{subject}: more than {max_values} values")
    try:
        return _decode(reply, struct)
    except msgspec.ValidationError as error:
        raise BadData(f"{subject}: {str(error)[:200]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"{subject}: not JSON: {str(error)[:200]}") from None


def _decode(reply: bytes, struct: type[T]) -> T:
    try:
        return msgspec.json.decode(reply, type=struct)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(valid_json_text(reply), type=struct)


def valid_json_text(reply: bytes) -> bytes:
    """Returns the text with invalid bytes and lone surrogates replaced by U+FFFD."""
    text = reply.decode("utf-8", "replace").encode()
    return _LONE_SURROGATE.sub(lambda match: match[1] or rb"\ufffd", text)
