"""Password guesses: a user whom the daemon has not seen yet gets in."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest

from tests.cpu_waits import CpuWaits
from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.web.raw_client import connected

ALONE = off("gpu", "containers", "triton", "joins", "upstream")
GUESSERS = 16
USERS = 10


def request(user: str, password: str) -> bytes:
    credentials = base64.b64encode(f"{user}:{password}".encode())
    return b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %b\r\n\r\n" % credentials


def status(port: int, sent: bytes, source: str) -> bytes:
    """Sends a request from an address of the loopback network; returns the status."""
    with connected(port, source=source) as connection:
        connection.sendall(sent)
        return connection.recv(12)[9:]


def one_name(_: int, __: int) -> str:
    return "user0"


def a_name_each(guesser: int, _: int) -> str:
    return f"guesser{guesser}"


def new_names(guesser: int, count: int) -> str:
    return f"guesser{guesser}.{count}"


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.{}"], ids=["same", "other"])
@pytest.mark.parametrize("names", [one_name, a_name_each, new_names])
def test_a_new_user_gets_in_during_a_flood(
    tmp_path: Path, names: Callable[[int, int], str], source: str
) -> None:
    """The guessers are behind the same address as the users, such as that of a NAT, or not."""
    passwords = {f"user{n}": bcrypt.hashpw(b"right", bcrypt.gensalt(10)) for n in range(USERS + 1)}
    file = tmp_path / "web.yml"
    file.write_text(
        "basic_auth_users:\n"
        + "".join(f"  {user}: {hashed.decode()}\n" for user, hashed in passwords.items())
    )
    end = threading.Event()
    took = []

    def guess(number: int, port: int) -> None:
        for count in itertools.count():
            if end.is_set():
                return
            sent = request(names(number, count), f"guess {number} {count}")
            with contextlib.suppress(TimeoutError):  # on a busy machine
                status(port, sent, source.format(10 + number % 4))

    with attack(
        f"{GUESSERS} guessers at {'the' if source == '127.0.0.1' else 'another'} address,"
        f" {names.__name__.replace('_', ' ')}, {USERS} new users",
        tmp_path,
        *ALONE,
        f"--web.config.file={file}",
        "--web.health-without-credentials",
        "--itself.interval=200ms",
        bound="guesses per address and user name; fair queue",
        path="/-/healthy",
    ) as current:
        port = current.daemon.port
        guessers = [threading.Thread(target=guess, args=(n, port)) for n in range(GUESSERS)]
        for thread in guessers:
            thread.start()
        try:
            time.sleep(0.5)  # the flood has filled the queue
            for user in list(passwords)[1:]:
                waits, started = CpuWaits(current.daemon.process.pid, os.getpid()), time.monotonic()
                assert status(port, request(user, "right"), "127.0.0.1") == b"200"
                took.append(time.monotonic() - started - waits.longest())
        finally:
            end.set()
            for thread in guessers:
                thread.join()
        assert max(took) < 4, took
