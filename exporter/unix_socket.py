"""Unix sockets: listens on one, or checks that one can be connected to. Blocks.

Listening replaces a stale socket file and removes only its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from exporter.errors import Forbidden, NotFound

FileId = tuple[int, int]
"""Device and inode of a file."""


def listen_unix(path: Path, mode: int, backlog: int) -> tuple[socket.socket, FileId]:
    """Returns a listening socket bound to the path, and the ID of its file.

    mode: the file's permissions, set before the socket listens. A socket file without a listener,
    as a killed process leaves it, is replaced. Raises OSError; EADDRINUSE if a process listens
    there, FileExistsError if the file is not a socket, or a symbolic link.
    """
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), mode)  # bind() applies it to the file, less the umask
        listening.bind(str(path))
        status = path.lstat()
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)  # before listen(), so no client connects with the umask's mode
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening, (status.st_dev, status.st_ino)


def remove_socket_file(path: Path, file_id: FileId) -> None:
    """Removes the socket file, unless another file has taken its place."""
    with contextlib.suppress(OSError):  # the file or its folder was removed
        status = path.lstat()
        if (status.st_dev, status.st_ino) == file_id:
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Removes a socket file that no process listens on. Raises OSError.

    A symbolic link is neither followed nor removed, whatever it points to.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        reason = "is a symbolic link: remove it, or set the path of the socket itself"
        raise FileExistsError(errno.EEXIST, reason)
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def check_accessible(path: str, missing_remedy: str, permission_remedy: str) -> None:
    """Raises NotFound if no socket is there, Forbidden if this process may not connect to it."""
    try:
        mode = Path(path).stat().st_mode
    except PermissionError as error:
        raise Forbidden(f"{path}: {error.strerror}", permission_remedy) from error
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", missing_remedy) from error
    if not stat.S_ISSOCK(mode):
        raise NotFound(f"{path} is not a socket", missing_remedy)
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise Forbidden(f"{path}: permission denied", permission_remedy)
