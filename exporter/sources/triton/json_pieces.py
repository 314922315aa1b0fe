"""Cuts long JSON into pieces that are decoded one after the other. Pure.

Python runs nothing else during one call of the decoder, in whichever thread: 4 MB of brackets stop
the event loop for 30 ms, 8192 response indexes of one model for 16 ms. So the elements of a long
list or object are decoded in pieces, cut before what looks like the beginning of an element. If it
is not one, the pieces before and after are no JSON by themselves: a wrong cut is an error, and
never another value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.json_struct import decode_leniently, valid_json_text

T = TypeVar("T")

# Shortest piece, unless it is the last; the longest text decoded by one call.
PIECE_BYTES = 16 << 10
MAX_PIECE_BYTES = 128 << 10
# The same for a document without long lists.
_MAX_DOCUMENT_BYTES = 256 << 10
# Bytes searched by one call for the next cut, and of those the bytes a pattern may match.
_SEARCHED_BYTES = 64 << 10
_MAX_MATCH_BYTES = 512

Span = tuple[int, int]
"""Start and end of a piece of a text."""

# The end of a list is searched in the last bytes.
_END_BYTES = 256
# Blanks between tokens, of which a server writes few.
_BLANK = rb"[ \t\r\n]{0,64}"


class Elements(NamedTuple):
    """Patterns of a list's or object's beginning, of the comma between two elements, of the end."""

    start: re.Pattern[bytes]
    boundary: re.Pattern[bytes]
    end: re.Pattern[bytes]


def pattern(*tokens: bytes) -> re.Pattern[bytes]:
    """Returns a pattern of these tokens (regular expressions) with blanks between them."""
    return re.compile(_BLANK.join(tokens), re.ASCII)


def search(
    text: bytes,
    wanted: re.Pattern[bytes],
    start: int,
    end: int,
    within: re.Pattern[bytes] | None = None,
) -> Iterator[re.Match[bytes] | None]:
    """Yields the first match within _SEARCHED_BYTES.

    within: boundary inside a long element: the search continues where there is one, and yields None
    meanwhile.
    """
    while start < end:
        window = min(end, start + _SEARCHED_BYTES)
        found = wanted.search(text, start, window)
        if found is not None:
            yield found
            return
        if within is None or within.search(text, start, window) is None:
            return
        start += _SEARCHED_BYTES - _MAX_MATCH_BYTES
        yield None


def cut(
    text: bytes,
    start: int,
    end: int,
    boundary: re.Pattern[bytes],
    within: re.Pattern[bytes] | None = None,
    *,
    single: bool = False,
) -> Iterator[Span | None]:
    """Yields start and end of each piece of text[start:end], and None during a longer search.

    boundary: its group 1 is the comma between two elements. within: as for `search`. single:
    whether each element is a piece.
    """
    shortest = 0 if single else PIECE_BYTES
    while end - start > shortest:
        found = None
        for found in search(text, boundary, start + shortest, end, within):
            if found is None:
                yield None
        if found is None:
            break
        yield start, found.start(1)
        start = found.end(1)
    yield start, end


def check_length(subject: str, body: bytes) -> None:
    """Raises BadData if one call would take too long."""
    if len(body) > _MAX_DOCUMENT_BYTES:
        raise not_tritons(subject)


def not_tritons(subject: str) -> BadData:
    return BadData(f"{subject}: not the response of a Triton server")


def list_span(subject: str, body: bytes, elements: Elements) -> Span:
    """Returns start and end of a response's list, without the brackets. Raises BadData."""
    start = elements.start.match(body)
    end = elements.end.search(body, max(0, len(body) - _END_BYTES))
    if start is None or end is None or end.start() < start.end():
        raise not_tritons(subject)
    return start.end(), end.start()


def decode_elements(subject: str, text: bytes, type: type[T]) -> Sequence[T | msgspec.Raw]:
    """Decodes a piece of a list; those of another shape stay undecoded. Raises BadData."""
    try:
        return decode_json(subject, b"[%b]" % text, list[type])  # type: ignore[valid-type]  # a variable
    except ValueError:
        return decode_json(subject, b"[%b]" % text, list[msgspec.Raw])


def decode_json(subject: str, body: bytes, type: type[T]) -> T:
    """Raises BadData for invalid JSON, ValueError for JSON of another shape.

    Invalid characters are replaced.
    """
    try:
        return _decode(body, type)
    except RecursionError:
        raise BadData(f"{subject}: JSON nested too deeply") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise BadData(f"{subject}: not JSON: {error}") from None


def _decode(body: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(valid_json_text(body), type=type)


def raw(text: bytes) -> msgspec.Raw:
    """Returns the text, to be decoded by one call. Raises ValueError if that takes too long."""
    if len(text) > MAX_PIECE_BYTES:
        raise ValueError("too long")
    return msgspec.Raw(text)


def decode_entry(entry: T | msgspec.Raw, type: type[T], faults: Faults) -> T:
    """Decodes an entry, without the members that do not match. Raises ValueError."""
    if not isinstance(entry, msgspec.Raw):
        return entry
    try:
        return decode_leniently(bytes(memoryview(entry)), type, faults)
    except RecursionError:
        raise ValueError("nested too deeply") from None
