"""Reads the listening sockets of /proc/PID/net/tcp and tcp6. Blocking.

A line is "0: 0100007F:1F40 00000000:0000 0A …": the local address in words of the host's byte
order, the remote one, the state; the tenth field is the socket's inode.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator, Mapping

from exporter.faults import Faults, quoted
from exporter.kernel_formats import count

Socket = tuple[bytes, int, int]
"""Address (4 or 16 bytes), port and inode of a listening socket."""

# Bytes of one file that are read: 28,000 listening sockets.
_MAX_BYTES, _CHUNK = 1 << 22, 1 << 16
# Lines of connections after which no listening socket is expected.
_MAX_OTHERS = 50
_MIN_FIELDS = 10
_LISTEN = b"0A"
_STATES = frozenset(b"%02X" % number for number in range(1, 14))
# By the number of hexadecimal digits.
_WORDS = {8: struct.Struct("=I"), 32: struct.Struct("=IIII")}


def listening_sockets(path: str, ports: Collection[int], faults: Faults) -> Iterator[Socket]:
    """Yields the sockets of a file that listen on one of the ports.

    The connections, which may be a million, follow the listening sockets and are not read. Raises
    OSError; of a file that is too long, too.
    """
    endings = {b"%04X" % port: port for port in ports}
    others = 0
    for line in _lines(path):
        fields = line.split(maxsplit=_MIN_FIELDS)
        if len(fields) < _MIN_FIELDS:
            if fields:
                faults.add(f"{quoted(line)} is not a socket")
        elif fields[3] == _LISTEN:
            socket = _socket(line, fields, endings, faults)
            if socket is not None:
                yield socket
        elif fields[0] != b"sl":  # the header
            if fields[3] not in _STATES:
                faults.add(f"{quoted(line)} has no state of a socket")
            others += 1
            if others > _MAX_OTHERS:
                return


def _socket(
    line: bytes, fields: list[bytes], endings: Mapping[bytes, int], faults: Faults
) -> Socket | None:
    """Returns the socket of a line; None for another port, and for a line that is none."""
    address, _, ending = fields[1].partition(b":")
    port = endings.get(ending)
    if port is None:
        if len(ending) != 4 or not _is_hexadecimal(ending):
            faults.add(f"{quoted(line)} has no port")
        return None
    packed, inode = _address(address), count(fields[9])
    if packed is None or inode is None:
        faults.add(f"{quoted(line)} is not a listening socket")
        return None
    return packed, port, inode


def _lines(path: str) -> Iterator[bytes]:
    """Yields the lines of a file, read in chunks. Raises OSError if it is too long."""
    size, rest = 0, b""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while chunk := os.read(file, _CHUNK):
            size += len(chunk)
            if size > _MAX_BYTES:
                raise OSError(0, f"more than {_MAX_BYTES >> 20} MiB of listening sockets")
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    finally:
        os.close(file)
    if rest:
        yield rest


def _address(text: bytes) -> bytes | None:
    """Parses an address of hexadecimal digits; None if it is none."""
    words = _WORDS.get(len(text))
    if words is None or not _is_hexadecimal(text):
        return None
    return words.pack(*(int(text[start : start + 8], 16) for start in range(0, len(text), 8)))


def _is_hexadecimal(text: bytes) -> bool:
    return bool(text) and not text.strip(b"0123456789ABCDEF")
