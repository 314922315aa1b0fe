"""Basic authentication: valid and invalid credentials, the cache, the cost of guesses."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import bcrypt
import pytest

from exporter.web.basic_auth import (
    MAX_CACHED_RESULTS,
    BasicAuthenticator,
)
from exporter.web.password_queue import (
    MAX_PENDING_PER_NAME,
    THREADS,
    ComparisonQueueFull,
    PasswordQueue,
)

T = TypeVar("T")

CLIENT = "192.0.2.1"


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password[:72], bcrypt.gensalt(cost)).decode()


def basic(user: str, password: str | bytes, scheme: str = "Basic") -> str:
    raw = password if isinstance(password, bytes) else password.encode()
    return f"{scheme} {base64.b64encode(user.encode() + b':' + raw).decode()}"


def run(hashes: dict[str, str], work: Callable[[BasicAuthenticator], Awaitable[T]]) -> T:
    async def main() -> T:
        queue = PasswordQueue()
        try:
            return await work(BasicAuthenticator(hashes, queue))
        finally:
            queue.close()

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
    assert run(ALICE, lambda authenticator: authenticator.authenticate(header, CLIENT)) is valid


def test_passwords_beyond_72_bytes_are_truncated_as_by_htpasswd() -> None:
    long = b"a" * 100
    assert run(
        {"a": hashed(long)},
        lambda authenticator: authenticator.authenticate(basic("a", long), CLIENT),
    )


def test_a_valid_password_is_compared_once_and_never_stored() -> None:
    password = "xyzzy-plugh-12345"  # noqa: S105 - made up

    async def work(authenticator: BasicAuthenticator) -> int:
        header = basic("alice", password)
        for _ in range(50):
            assert await authenticator.authenticate(header, CLIENT)
        del header
        gc.collect()
        # No object reachable from the authenticator contains the password, plain or in base64.
        seen: set[int] = set()
        queue: list[object] = [authenticator.__dict__]
        while queue:
            value = queue.pop()
            if id(value) in seen or isinstance(value, (type, PasswordQueue)):
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
        assert await authenticator.authenticate(basic("alice", "right"), CLIENT)
        for number in range(MAX_CACHED_RESULTS + 50):  # each by another client
            header = basic("alice", f"guess {number}")
            assert not await authenticator.authenticate(header, f"client {number}")
        before = authenticator.comparisons
        assert await authenticator.authenticate(basic("alice", "right"), CLIENT)
        last = basic("alice", f"guess {MAX_CACHED_RESULTS + 49}")
        assert not await authenticator.authenticate(last, CLIENT)
        return authenticator.comparisons - before, len(authenticator._invalid)

    assert run(ALICE, work) == (0, MAX_CACHED_RESULTS)


def test_a_flood_of_guesses_is_refused_and_cached_credentials_still_work() -> None:
    async def work(authenticator: BasicAuthenticator) -> tuple[int, bool]:
        assert await authenticator.authenticate(basic("alice", "right"), CLIENT)
        flood = [
            asyncio.ensure_future(authenticator.authenticate(basic("x", str(n)), CLIENT))
            for n in range(100)
        ]
        await asyncio.sleep(0)
        before = authenticator.comparisons
        valid = await authenticator.authenticate(basic("alice", "right"), CLIENT)
        assert authenticator.comparisons == before
        results = await asyncio.gather(*flood, return_exceptions=True)
        return sum(isinstance(result, ComparisonQueueFull) for result in results), valid

    compared = THREADS + MAX_PENDING_PER_NAME
    assert run({"alice": hashed(b"right", 8)}, work) == (100 - compared, True)


def test_concurrent_requests_with_the_same_credentials_are_compared_once() -> None:
    async def work(authenticator: BasicAuthenticator) -> int:
        results = await asyncio.gather(
            *(authenticator.authenticate(basic("alice", "right"), CLIENT) for _ in range(40))
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
            for number in range(4):
                assert not await authenticator.authenticate(basic(user, f"guess {number}"), CLIENT)
            compared_with = authenticator._hashes.get(user.encode())
            cost = (compared_with or authenticator._dummy_hash(user.encode()))[4:6]
            results.append((authenticator.comparisons - before, cost))
        return results

    assert run({"alice": hashed(b"right", 9)}, work) == [(4, b"09"), (4, b"09")]


def test_a_dummy_hash_has_the_cost_of_a_configured_hash() -> None:
    hashes = {"a": hashed(b"x", 5), "b": hashed(b"x", 7)}
    authenticator = BasicAuthenticator(hashes, PasswordQueue())
    costs = {authenticator._dummy_hash(f"user {n}".encode())[4:6] for n in range(100)}
    assert costs == {b"05", b"07"}
    assert len({authenticator._dummy_hash(b"same") for _ in range(10)}) == 1
