"""Unpacks gzip up to a length. Pure."""

from __future__ import annotations

import zlib


class TooLong(ValueError):
    """The unpacked body exceeds the limit, or is no gzip."""


def gunzip(body: bytes, max_bytes: int) -> bytes:
    """Returns the unpacked body, of one gzip member. Raises TooLong, also for what is no gzip."""
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, max_bytes)
        # Not all of the checksum may be read at exactly the limit.
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise TooLong(f"a gzip body longer than {max_bytes} bytes")
    except zlib.error:
        raise TooLong("a body is not gzip, as its header says") from None
    if not stream.eof:
        raise TooLong("an incomplete gzip body")
    return plain
