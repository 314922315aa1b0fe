"""Splits a JSON reply, while it arrives, into its elements, without their long members. Pure.

So the memory of a list is that of one element, however long the list is, and a long member (such
as the labels of one container) costs that member only. Strings are skipped by regular expressions,
without backtracking, and so is an element without long members that arrives as a whole. In other
elements brackets, and commas outside of members, are steps in Python.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from exporter.errors import BadData

MAX_NESTING = 200
# Bound of the steps of one reply, for its reader: each takes a microsecond or two.
MAX_STEPS = 500_000
# Bytes that are kept of an element over its bound: the engine writes a container's ID first.
_START_BYTES = 1 << 8

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NO_BRACKET, _NO_BRACKET_OR_COMMA = rb'[^"\[\]{}]', rb'[^"\[\]{},]'


def _nested(levels: int) -> bytes:
    """Returns the expression of an object or array; its brackets need not match.

    levels: nesting of those in it. An attempt reads each byte once for each level.
    """
    inner = rb"|%b" % _nested(levels - 1) if levels else b""
    return rb"[\[{]%b*+(?:(?:%b%b)%b*+)*+[\]}]" % (_NO_BRACKET, _STRING, inner, _NO_BRACKET)


# A whole element, as engines write it: no step is needed within it.
_ELEMENT = re.compile(rb"\s*+" + _nested(4), re.DOTALL)
# The text up to the next step: outside of members, between members, and in a member.
_OUTSIDE, _BETWEEN, _INSIDE = (
    re.compile(rb"%b*+(?:(?:%b)%b*+)*+" % (text, group, text), re.DOTALL)
    for text, group in (
        (_NO_BRACKET_OR_COMMA, _STRING),
        (_NO_BRACKET_OR_COMMA, rb"%b|%b" % (_STRING, _nested(0))),
        (_NO_BRACKET, rb"%b|%b" % (_STRING, _nested(0))),
    )
)
# The rest of a string, with its quote; a backslash at the end is not matched.
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
_QUOTE, _COMMA, _OPENING, _CLOSING = ord('"'), ord(","), b"[{", b"]}"


@dataclass(frozen=True, slots=True)
class JsonPiece:
    """The text up to a comma between two elements, without the comma.

    omitted: number of long members that it lacks. too_long: whether the text is only its start.
    """

    text: bytes
    omitted: int = 0
    too_long: bool = False


class JsonPieces:
    """Splits one reply. The pieces, joined by commas, are the reply without the omitted members.

    depth: nesting of the members: 2 in an array of objects, 3 in an object of such arrays.
    max_member, max_piece: bytes of a member that is not omitted, and of a piece without those.
    subject: the reply, for errors.
    """

    def __init__(self, subject: str, depth: int, *, max_member: int, max_piece: int) -> None:
        self._subject = subject
        self._member_depth = depth
        self._max_member, self._max_piece = max_member, max_piece
        self._depth = 0
        self._pattern = _OUTSIDE
        self._in_string = self._after_backslash = False
        self.steps = 0
        """Steps so far."""
        self._piece = bytearray()
        self._member_start = 0
        self._in_long_member = self._too_long = False
        self._omitted = 0

    def feed(self, part: bytes) -> Iterator[JsonPiece]:
        """Yields the pieces that end in the next part of the reply. Raises BadData."""
        position = 0
        while position < len(part):
            start = position
            if self._in_string:
                position = self._string_end(part, position)
                self._keep(part[start:position])
                continue
            if self._depth == self._member_depth - 1 and (
                match := _ELEMENT.match(part, position, position + self._max_member)
            ):
                self._keep(match[0])
                position = start = match.end()
            match = self._pattern.match(part, position)
            assert match is not None  # noqa: S101 - the pattern matches the empty text, too
            position = match.end()
            self._keep(part[start:position])
            if position < len(part):
                byte = part[position]
                position += 1
                self.steps += 1
                if byte == _COMMA and self._depth == self._member_depth - 1:
                    yield self._take()
                else:
                    self._step(byte)

    def finish(self) -> JsonPiece:
        """Returns the last piece. Raises BadData if the reply is not complete."""
        if self._depth or self._in_string:
            raise BadData(f"{self._subject}: not JSON: it ends too early")
        return self._take()

    def _string_end(self, part: bytes, position: int) -> int:
        """Returns the position after the string's quote; the end of the part without one."""
        if self._after_backslash:
            position, self._after_backslash = position + 1, False
        match = _STRING_REST.match(part, position)
        assert match is not None  # noqa: S101 - the pattern matches the empty text, too
        self._in_string = not match[1]
        self._after_backslash = self._in_string and match.end() < len(part)
        return len(part) if self._in_string else match.end()

    def _step(self, byte: int) -> None:
        """Takes a quote, bracket or comma inside of a piece. Raises BadData."""
        text = bytes((byte,))
        if byte in _OPENING:
            self._depth += 1
            if self._depth > MAX_NESTING:
                raise BadData(f"{self._subject}: not JSON: nested too deeply")
            if self._depth == self._member_depth:
                self._start_member(text)
            else:
                self._keep(text)
        elif byte in _CLOSING:
            self._depth -= 1
            if self._depth < 0:
                raise BadData(f"{self._subject}: not JSON: a bracket too many")
            if self._depth == self._member_depth - 1 and self._end_long_member():
                self._piece = self._piece.removesuffix(b",")  # of the member before
            self._keep(text)
        elif byte == _COMMA and self._depth == self._member_depth:
            self._start_member(b"" if self._end_long_member() else text)
        else:
            self._in_string = byte == _QUOTE
            self._keep(text)
        self._pattern = _INSIDE
        if self._depth <= self._member_depth:
            self._pattern = _BETWEEN if self._depth == self._member_depth else _OUTSIDE

    def _end_long_member(self) -> bool:
        """Returns whether the member that ends is omitted."""
        was_long, self._in_long_member = self._in_long_member, False
        return was_long

    def _start_member(self, separator: bytes) -> None:
        self._member_start = len(self._piece)
        self._keep(separator)
        self._member_start = len(self._piece)

    def _keep(self, text: bytes) -> None:
        if self._in_long_member or self._too_long:
            return
        self._piece += text
        in_member = self._depth >= self._member_depth
        if in_member and len(self._piece) - self._member_start > self._max_member:
            del self._piece[self._member_start :]
            self._in_long_member = True
            self._omitted += 1
        elif len(self._piece) > self._max_piece:
            del self._piece[_START_BYTES:]
            self._too_long = True

    def _take(self) -> JsonPiece:
        piece = JsonPiece(bytes(self._piece), self._omitted, self._too_long)
        self._piece.clear()
        self._omitted, self._too_long = 0, False
        return piece
