"""Basic authentication: valid and invalid credentials, the cache, the cost of guesses."""

from __future__ import annotations

import asyncio
import base64
import gc
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bcrypt
import pytest

from exporter.web.basic_auth import (
    MAX_CACHED_RESULTS,
    MAX_PENDING_COMPARISONS,
    BasicAuthenticator,
    ComparisonQueueFull,
)
from exporter.worker import Worker

T = TypeVar("T")


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password[:72], bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str | bytes, scheme: str = "Basic") -> str:
    raw = password if isinstance(password, bytes) else password.encode()
    return f"{scheme} {base64.b64encode(user.encode() + b':' + raw).decode()}"


def run(hashes: dict[str, str], work: Callable[[BasicAuthenticator], Awaitable[T]]) -> T:
    async def main() -> T:
        worker = Worker("passwords", shared=True)
        try:
            return await work(BasicAuthenticator(hashes, worker))
        finally:
            worker.close()

    return asyncio.run(main())


ALICE = {"alice": hashed(b"right"), "zoë": hashed("pass:wörd".encode())}


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (basic("alice", "right"), True),
        (basic("alice", "right", "bAsIc"), True),
        (basic("zoë", "pass:wörd"), True),
        (basic("alice", "wrong"), False),
        (basic("alice", ""), False),
        (basic("alice", b"ri\0ght"), False),
        (basic("bob", "right"), False),
        (basic("", ""), False),
        ("", False),
        ("Basic", False),
        ("Basic !!!", False),
        ("Basic YWxpY2U=", False),  # no colon
        ("Bearer YWxpY2U6cmlnaHQ=", False),
        (basic("alice", b"\xff\xfe"), False),
        ("Basic ö", False),
    ],
)
def test_credentials(header: str, valid: bool) -> None:
    assert run(ALICE, lambda authenticator: authenticator.authenticate(header)) is valid


def test_passwords_beyond_72_bytes_are_truncated_as_by_htpasswd() -> None:
    long = b"a" * 100
    assert run(
        {"a": hashed(long)}, lambda authenticator: authenticator.authenticate(basic("a", long))
    )


def test_a_valid_password_is_compared_once_and_never_stored() -> None:
    password = "xyzzy-plugh-12345"  # noqa: S105 - made up

    async def work(authenticator: BasicAuthenticator) -> int:
        header = basic("alice", password)
        for _ in range(50):
            assert await authenticator.authenticate(header)
        del header
        gc.collect()
        # No object reachable from the authenticator contains the password, plain or in base64.
        seen: set[int] = set()
        queue: list[object] = [authenticator.__dict__]
        while queue:
            value = queue.pop()
            if id(value) in seen or isinstance(value, (type, Worker)):
                continue
            seen.add(id(value))
            text = (
                value
                if isinstance(value, bytes)
                else str(value).encode()
                if isinstance(value, str)
                else b""
            )
            assert password.encode() not in text
            assert base64.b64encode(password.encode())[:-4] not in text
            if isinstance(value, dict):
                queue += [*value.keys(), *value.values()]
            elif isinstance(value, (list, tuple, set)):
                queue += list(value)
        return authenticator.comparisons

    assert run({"alice": hashed(password.encode())}, work) == 1


def test_guesses_evict_no_valid_credentials_and_are_evicted_themselves() -> None:
    async def work(authenticator: BasicAuthenticator) -> tuple[int, int]:
        assert await authenticator.authenticate(basic("alice", "right"))
        for number in range(MAX_CACHED_RESULTS + 50):
            assert not await authenticator.authenticate(basic("alice", f"guess {number}"))
        before = authenticator.comparisons
        assert await authenticator.authenticate(basic("alice", "right"))
        assert not await authenticator.authenticate(
            basic("alice", f"guess {MAX_CACHED_RESULTS + 49}")
        )
        return authenticator.comparisons - before, len(authenticator._invalid)

    assert run(ALICE, work) == (0, MAX_CACHED_RESULTS)


def test_a_flood_of_guesses_is_refused_and_cached_credentials_still_work() -> None:
    async def work(authenticator: BasicAuthenticator) -> tuple[int, bool]:
        assert await authenticator.authenticate(basic("alice", "right"))
        flood = [
            asyncio.ensure_future(authenticator.authenticate(basic("x", str(n))))
            for n in range(100)
        ]
        await asyncio.sleep(0)
        started = time.monotonic()
        valid = await authenticator.authenticate(basic("alice", "right"))
        assert time.monotonic() - started < 0.05
        results = await asyncio.gather(*flood, return_exceptions=True)
        return sum(isinstance(result, ComparisonQueueFull) for result in results), valid

    assert run({"alice": hashed(b"right", 8)}, work) == (100 - MAX_PENDING_COMPARISONS, True)


def test_concurrent_requests_with_the_same_credentials_are_compared_once() -> None:
    async def work(authenticator: BasicAuthenticator) -> int:
        results = await asyncio.gather(
            *(authenticator.authenticate(basic("alice", "right")) for _ in range(40))
        )
        assert all(results)
        return authenticator.comparisons

    assert run(ALICE, work) == 1


def test_response_time_does_not_reveal_user_names() -> None:
    """Each guess costs one bcrypt comparison, of a known name or not; their costs are equal."""

    async def work(authenticator: BasicAuthenticator) -> list[tuple[int, bytes]]:
        results = []
        for user in ("alice", "unknown"):
            before = authenticator.comparisons
            for number in range(9):
                assert not await authenticator.authenticate(basic(user, f"guess {number}"))
            compared_with = authenticator._hashes.get(user.encode())
            cost = (compared_with or authenticator._dummy_hash(user.encode()))[4:6]
            results.append((authenticator.comparisons - before, cost))
        return results

    assert run({"alice": hashed(b"right", 9)}, work) == [(9, b"09"), (9, b"09")]


def test_a_dummy_hash_has_the_cost_of_a_configured_hash() -> None:
    worker = Worker("passwords", shared=True)
    authenticator = BasicAuthenticator({"a": hashed(b"x", 5), "b": hashed(b"x", 7)}, worker)
    costs = {authenticator._dummy_hash(f"user {n}".encode())[4:6] for n in range(100)}
    assert costs == {b"05", b"07"}
    assert len({authenticator._dummy_hash(b"same") for _ in range(10)}) == 1
    worker.close()
