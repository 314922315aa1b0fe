"""Basic authentication: who is let in, what is remembered, what a guess costs."""

from __future__ import annotations

import asyncio
import base64
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bcrypt
import pytest

from exporter.web.basic_auth import MOST_REMEMBERED, MOST_WAITING, TooManyAtOnce, Users
from exporter.worker import Worker

T = TypeVar("T")


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password[:72], bcrypt.gensalt(cost)).decode()


def header(user: str, password: str | bytes, scheme: str = "Basic") -> str:
    raw = password if isinstance(password, bytes) else password.encode()
    return f"{scheme} {base64.b64encode(user.encode() + b':' + raw).decode()}"


def with_users(hashes: dict[str, str], work: Callable[[Users], Awaitable[T]]) -> T:
    async def run() -> T:
        worker = Worker("passwords", shared=True)
        try:
            return await work(Users(hashes, worker))
        finally:
            worker.close()

    return asyncio.run(run())


ALICE = {"alice": hashed(b"right"), "zoë": hashed("pass:wörd".encode())}


@pytest.mark.parametrize(
    ("given", "let_in"),
    [
        (header("alice", "right"), True),
        (header("alice", "right", "bAsIc"), True),
        (header("zoë", "pass:wörd"), True),
        (header("alice", "wrong"), False),
        (header("alice", ""), False),
        (header("alice", b"ri\0ght"), False),
        (header("bob", "right"), False),
        (header("", ""), False),
        ("", False),
        ("Basic", False),
        ("Basic !!!", False),
        ("Basic YWxpY2U=", False),  # no colon
        ("Bearer YWxpY2U6cmlnaHQ=", False),
        (header("alice", b"\xff\xfe"), False),
        ("Basic ö", False),
    ],
)
def test_who_is_let_in(given: str, let_in: bool) -> None:
    assert with_users(ALICE, lambda users: users.let_in(given)) is let_in


def test_passwords_beyond_72_bytes_are_taken_as_htpasswd_takes_them() -> None:
    long = b"a" * 100
    assert with_users({"a": hashed(long)}, lambda users: users.let_in(header("a", long)))


def test_a_good_password_is_compared_once_and_never_kept() -> None:
    password = "xyzzy-plugh-12345"  # noqa: S105 - made up

    async def work(users: Users) -> int:
        given = header("alice", password)
        for _ in range(50):
            assert await users.let_in(given)
        del given
        gc.collect()
        # Nothing that the object reaches holds it, plain or in base 64.
        seen: set[int] = set()
        queue: list[object] = [users.__dict__]
        while queue:
            each = queue.pop()
            if id(each) in seen or isinstance(each, (type, Worker)):
                continue
            seen.add(id(each))
            text = (
                each
                if isinstance(each, bytes)
                else str(each).encode()
                if isinstance(each, str)
                else b""
            )
            assert password.encode() not in text
            assert base64.b64encode(password.encode())[:-4] not in text
            if isinstance(each, dict):
                queue += [*each.keys(), *each.values()]
            elif isinstance(each, (list, tuple, set)):
                queue += list(each)
        return users.compared

    assert with_users({"alice": hashed(password.encode())}, work) == 1


def test_many_wrong_ones_push_out_no_right_one_and_are_forgotten() -> None:
    async def work(users: Users) -> tuple[int, int]:
        assert await users.let_in(header("alice", "right"))
        for number in range(MOST_REMEMBERED + 50):
            assert not await users.let_in(header("alice", f"guess {number}"))
        before = users.compared
        assert await users.let_in(header("alice", "right"))
        assert not await users.let_in(header("alice", f"guess {MOST_REMEMBERED + 49}"))
        return users.compared - before, len(users._wrong)

    assert with_users(ALICE, work) == (0, MOST_REMEMBERED)


def test_a_flood_of_guesses_is_turned_away_and_the_known_get_in() -> None:
    async def work(users: Users) -> tuple[int, bool]:
        assert await users.let_in(header("alice", "right"))
        flood = [asyncio.ensure_future(users.let_in(header("x", str(n)))) for n in range(100)]
        await asyncio.sleep(0)
        started = time.monotonic()
        known = await users.let_in(header("alice", "right"))
        assert time.monotonic() - started < 0.05
        results = await asyncio.gather(*flood, return_exceptions=True)
        return sum(isinstance(each, TooManyAtOnce) for each in results), known

    assert with_users({"alice": hashed(b"right", 8)}, work) == (100 - MOST_WAITING, True)


def test_the_same_question_at_once_is_compared_once() -> None:
    async def work(users: Users) -> int:
        answers = await asyncio.gather(*(users.let_in(header("alice", "right")) for _ in range(40)))
        assert all(answers)
        return users.compared

    assert with_users(ALICE, work) == 1


def test_time_tells_of_no_user() -> None:
    async def work(users: Users) -> tuple[float, float]:
        async def took(user: str) -> float:
            times = []
            for number in range(9):
                started = time.perf_counter()
                assert not await users.let_in(header(user, f"guess {number}"))
                times.append(time.perf_counter() - started)
            return statistics.median(times)

        return await took("alice"), await took("nobody")

    known, unknown = with_users({"alice": hashed(b"right", 9)}, work)
    assert 0.5 < known / unknown < 2, (known, unknown)


def test_a_fake_hash_costs_what_a_real_one_costs() -> None:
    worker = Worker("passwords", shared=True)
    users = Users({"a": hashed(b"x", 5), "b": hashed(b"x", 7)}, worker)
    costs = {users._fake(f"user {n}".encode())[4:6] for n in range(100)}
    assert costs == {b"05", b"07"}
    assert len({users._fake(b"same") for _ in range(10)}) == 1
    worker.close()
