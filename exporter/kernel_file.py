"""Reads files of /proc, /sys and cgroupfs, up to a size limit. Blocks."""

from __future__ import annotations

import os
from pathlib import Path

# Bytes of one read. The kernel allocates a buffer of the requested size for a sysctl.
_CHUNK = 1 << 14
_MAX_TEXT = 1 << 16


def read_kernel_file(path: Path, max_bytes: int) -> bytes:
    """Returns the file's content. Raises OSError, and ValueError if it exceeds `max_bytes`."""
    chunks: list[bytes] = []
    size = 0
    with path.open("rb", buffering=0) as file:
        while size <= max_bytes and (chunk := file.read(min(max_bytes, _CHUNK))):
            chunks.append(chunk)
            size += len(chunk)
    if size > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    return b"".join(chunks)


def kernel_text(path: str) -> str | None:
    """Returns the first 64 KiB of a small file as text; None if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _MAX_TEXT).decode(errors="replace")
        finally:
            os.close(file)
    except OSError:
        return None


def read_on(descriptor: int, content: bytes, max_bytes: int = 1 << 20) -> bytes:
    """Reads on from the end of `content` to that of the file, at most about `max_bytes`."""
    chunks, size = [content], len(content)
    while size < max_bytes and (chunk := os.pread(descriptor, _MAX_TEXT, size)):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)
