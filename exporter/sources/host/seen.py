"""Which file system a path leads to, from where this process stands. Blocking."""

from __future__ import annotations

import os


def leads_to(path: str, number: str) -> bool:
    """Whether the path is on the file system of that number ("major:minor"). Raises OSError.

    A path out of the host's list of mounts may lead elsewhere: in a container, in a service that
    is kept from some folders, and where something was mounted after our view of the host was made.
    """
    device = os.stat(path).st_dev  # noqa: PTH116 - a path of any bytes, as the kernel has it
    if f"{os.major(device)}:{os.minor(device)}" == number:
        return True
    # btrfs gives each subvolume a number of its own, and the list has that of the whole.
    return _number_of_mount(path) == number


def _number_of_mount(path: str) -> str | None:
    """The number that our own list of mounts has for the one the path is on. Raises OSError."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount = _field(f"/proc/self/fdinfo/{descriptor}", b"mnt_id:")
    finally:
        os.close(descriptor)
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            words = line.split(b" ", 3)
            if len(words) > 3 and words[0] == mount:
                return words[2].decode("ascii", "replace")
    return None


def _field(path: str, name: bytes) -> bytes | None:
    with open(path, "rb") as file:  # noqa: PTH123 - as above
        for line in file:
            if line.startswith(name):
                return line[len(name) :].strip()
    return None
