"""The driver's library as a file: loading it, calling it without pynvml, noticing a new one."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from pathlib import Path
from typing import Any

from exporter.errors import NotFound
from exporter.sources.gpu.nvml.errors import LIBRARY, NO_DRIVER, error_for

SUCCESS, INSUFFICIENT_SIZE = 0, 7


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY)


def load_library() -> None:
    """Load the library, before pynvml does: it does not say why loading fails. Raises NotFound."""
    try:
        _library()
        _loaded()
    except OSError as error:
        raise NotFound(
            f"the NVIDIA driver's library cannot be loaded: {error}", NO_DRIVER
        ) from None


def raw_call(function: str, *arguments: Any) -> int:
    """Call a function into memory of ours, and give its return code.

    Where pynvml would take new memory for every call, or as much as the driver says.
    Raises Unsupported where the library has no such function.
    """
    try:
        pointer = getattr(_library(), function)
    except AttributeError:
        raise error_for(13, function) from None
    code: int = pointer(*arguments)
    return code


LibraryStamp = tuple[int, int, int]
"""What tells one file from another: device, inode, time of change in nanoseconds."""


@functools.cache
def _loaded() -> tuple[Path, LibraryStamp] | None:
    """The path by which this process would load the library again, and which file that was.

    The kernel's map names the file behind the links, which an update removes: what counts is the
    name that the library was asked for by, in the same folder.
    """
    with contextlib.suppress(OSError):  # no procfs: then it cannot be told
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            place = line.partition("/")[2]
            if place.rpartition("/")[2].startswith("libnvidia-ml.so"):
                path = Path("/" + place).with_name(LIBRARY)
                return path, _stamp(path)
    return None


def replaced_library() -> LibraryStamp | None:
    """The file that has taken the place of the library since it was loaded; None for none."""
    loaded = _loaded()
    if loaded is None:
        return None
    path, before = loaded
    with contextlib.suppress(OSError):  # nothing there just now: an update under way
        found = _stamp(path)
        return found if found != before else None
    return None


def _stamp(path: Path) -> LibraryStamp:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns
