"""libnvidia-ml.so.1 as a file: loads it, calls it without pynvml, detects its replacement."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from exporter.errors import NotFound
from exporter.sources.gpu.nvml.errors import LIBRARY, NO_DRIVER, error_for
from exporter.sources.gpu.nvml.import_lock import import_lock

SUCCESS, INSUFFICIENT_SIZE = 0, 7
_Handle = ctypes.c_void_p


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY, handle=_open())


def _open() -> int:
    """Returns the handle of the library. Raises OSError.

    ctypes would load it with the GIL held: a library that hangs meanwhile, in a constructor that
    opens its devices, would stop every thread. A foreign function is called without the GIL.
    """
    program = ctypes.CDLL(None)
    program.dlopen.argtypes, program.dlopen.restype = (ctypes.c_char_p, ctypes.c_int), _Handle
    program.dlerror.argtypes, program.dlerror.restype = (), ctypes.c_char_p
    with import_lock():
        handle: int | None = program.dlopen(LIBRARY.encode(), os.RTLD_NOW | os.RTLD_LOCAL)
        if handle is None:
            raise OSError((program.dlerror() or b"no reason given").decode(errors="replace"))
    return handle


def load_library() -> None:
    """Loads the library before pynvml does, which hides why loading fails. Raises NotFound."""
    try:
        _library()
        _loaded_file()
    except OSError as error:
        raise NotFound(
            f"the NVIDIA driver's library cannot be loaded: {error}", NO_DRIVER
        ) from None


def function_pointer(function: str) -> Any:
    """Returns a library function, which returns a return code (nvmlReturn_t).

    Raises Unsupported if the library has no such function.
    """
    try:
        return getattr(_library(), function)
    except AttributeError:
        raise error_for(13, function) from None


def raw_call(function: str, *arguments: Any) -> int:
    """Calls a library function with the caller's buffers; returns its return code.

    pynvml would allocate new buffers for every call, of any size the driver reports.
    Raises Unsupported if the library has no such function.
    """
    code: int = function_pointer(function)(*arguments)
    return code


LibraryStamp = tuple[int, int, int]
"""Identity of a library file: device, inode, modification time in nanoseconds."""


@functools.cache
def _loaded_file() -> tuple[Path, LibraryStamp] | None:
    """Returns the path that would load the library again, and the stamp of the loaded file.

    /proc/self/maps has the resolved file name, which an update removes; the path is that folder
    with the name the library is loaded by.
    """
    with contextlib.suppress(OSError):  # without procfs: unknown
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            place = line.partition("/")[2]
            if place.rpartition("/")[2].startswith("libnvidia-ml.so"):
                path = Path("/" + place).with_name(LIBRARY)
                return path, _stamp(path)
    return None


def replaced_library() -> LibraryStamp | None:
    """Returns the stamp of the file that replaced the loaded library; None if none did."""
    loaded = _loaded_file()
    if loaded is None:
        return None
    path, loaded_stamp = loaded
    with contextlib.suppress(OSError):  # no file at present: an update in progress
        stamp = _stamp(path)
        return stamp if stamp != loaded_stamp else None
    return None


def _stamp(path: Path) -> LibraryStamp:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns
