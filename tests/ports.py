"""TCP ports for the servers of the tests."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections import deque

# Below the ports that the kernel gives to connections and to servers that ask for any
# (net.ipv4.ip_local_port_range): those may be taken before the server of the test starts.
_PORTS = range(15_000, 32_000)
# Number of a process' latest ports that no other one may draw.
_RESERVED = 100
_marks: deque[int] = deque()
"""Descriptors of the sockets that reserve them."""
# Not the generator that tests seed: two workers would draw the same ports.
_random = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Returns ports of 127.0.0.1 that are free now, each once."""
    with contextlib.ExitStack() as stack:
        return [_bound(stack.enter_context(socket.socket())) for _ in range(count)]


def free_port() -> int:
    """Returns a port of 127.0.0.1 that is free now."""
    (port,) = free_ports(1)
    return port


def _bound(free: socket.socket) -> int:
    """Binds the socket; returns its port."""
    free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for _ in range(100):
        port = _random.choice(_PORTS)
        try:
            _reserve(port)
            free.bind(("127.0.0.1", port))
            free.listen()  # a second socket may be bound to a port on which none listens
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise AssertionError("a hundred ports are in use")


def _reserve(port: int) -> None:
    """Reserves the port: no process of the tests draws it until this one has drawn 100 more.

    A server takes a while to listen on it, and other tests need one on which none listens. Raises
    OSError if it is reserved.
    """
    with socket.socket(socket.AF_UNIX) as mark:
        mark.bind(f"\0inference-exporter-tests-{port}")
        _marks.append(mark.detach())
    if len(_marks) > _RESERVED:
        os.close(_marks.popleft())
