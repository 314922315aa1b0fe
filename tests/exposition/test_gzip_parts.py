"""Compressed parts joined to one gzip member, and its checksum."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.gzip_parts import deflate, gzip_member, joined_checksum


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_a_member_has_the_bytes_of_its_parts(parts: list[bytes]) -> None:
    member = gzip_member(deflate(part) for part in parts)
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(member) == b"".join(parts)
    assert reader.eof, "the checksum and the length are right"
    assert reader.unused_data == b""


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_535, 1 << 20, (1 << 20) + 1, 5_000_003])
def test_the_checksum_of_long_texts(size: int) -> None:
    first, second = b"first", (b"%d text\0" % size * (size + 1))[:size]
    joined = joined_checksum(zlib.crc32(first), zlib.crc32(second), size)
    assert joined == zlib.crc32(first + second)


def test_a_member_of_a_page_is_read_by_others() -> None:
    lines = [b'family{label="%d"} 1.0\n' % i for i in range(20_000)]
    parts = [b"".join(lines[i::3]) for i in range(3)]
    assert gzip.decompress(gzip_member(map(deflate, parts))) == b"".join(parts)
