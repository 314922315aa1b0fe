"""Entry point of `python -m exporter` and of the command `inference-exporter`."""

import contextlib
import ctypes
import os
import resource
import signal
import sys

# Bytes of address space that the daemon needs: some 200 MiB for itself, 8 MiB for the stack of each
# of up to 50 threads, and room for its memory.
MIN_ADDRESS_SPACE = 768 << 20
_M_ARENA_MAX = -8  # malloc.h


def start() -> None:
    """Runs the command. Ignores SIGHUP until the daemon has installed its handler."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    open_standard_streams()
    check_address_space()
    limit_arenas()
    from exporter.cli import main  # noqa: PLC0415 - its imports take a moment, in which a SIGHUP must not end the process

    main()


def open_standard_streams() -> None:
    """Opens those of the descriptors 0 to 2 that are closed to /dev/null.

    Otherwise a socket gets one of these numbers, and a library that writes to standard error
    writes to a peer.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor: this one, as those below it are open.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def check_address_space() -> None:
    """Ends the process with one line if RLIMIT_AS is below MIN_ADDRESS_SPACE."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= MIN_ADDRESS_SPACE:
        return
    sys.exit(
        f"inference-exporter: the limit of address space (RLIMIT_AS, ulimit -v) is {limit >> 20} "
        f"MiB, at least {MIN_ADDRESS_SPACE >> 20} MiB are needed: raise it; to limit memory, set "
        "MemoryMax= of the unit or the container's memory limit"
    )


def limit_arenas() -> None:
    """Makes glibc's malloc use one arena for all threads; does nothing with another C library.

    By default every thread gets its own, up to eight a core, each with memory that it keeps: 9 MB
    on a machine of 16 cores. The threads spend their time in system calls and hold the GIL
    otherwise, so that they rarely wait for each other here.
    """
    with contextlib.suppress(AttributeError, OSError):  # musl has no mallopt
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


if __name__ == "__main__":
    start()
