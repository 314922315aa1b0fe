"""Divides a page that arrives in pieces into complete lines. Pure."""

from __future__ import annotations

from exporter.upstream.grammar import MAX_LINE_LENGTH


class PageLines:
    """The lines of one page; one that is longer than MAX_LINE_LENGTH is skipped, never stored.

    length: bytes of the page so far. too_long: number of the skipped lines.
    """

    def __init__(self) -> None:
        self.length = 0
        self.too_long = 0
        self._rest = b""
        self._in_long_line = False

    @property
    def held_bytes(self) -> int:
        """Bytes of the line that is not complete yet."""
        return len(self._rest)

    def feed(self, piece: bytes) -> bytes:
        """Returns the lines that this piece completes, each with its line feed."""
        self.length += len(piece)
        if self._in_long_line:
            start = piece.find(b"\n") + 1
            if not start:
                return b""
            self._in_long_line = False
            piece = piece[start:]
        end = piece.rfind(b"\n") + 1
        if end:
            block = self._rest + piece[:end] if self._rest else piece[:end]
            self._rest = piece[end:]
        else:
            block = b""
            self._rest += piece
        if len(self._rest) > MAX_LINE_LENGTH:
            self._rest = b""
            self._in_long_line = True
            self.too_long += 1
        return block

    def finish(self) -> bytes:
        """Returns the last line, with a line feed, if the page does not end with one."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""
