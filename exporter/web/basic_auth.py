"""Who may in: basic authentication against bcrypt hashes.

bcrypt is slow on purpose. It runs in a thread of its own, one comparison at a time and few in the
queue, and what it said is remembered: not the password, but a keyed digest of it whose key is
made anew by each process.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import bcrypt

from exporter.worker import Worker

# Comparisons that may wait for the thread; beyond them a request is turned away.
MOST_WAITING = 8
# Answers remembered, right ones and wrong ones each.
MOST_REMEMBERED = 256
# bcrypt looks at no more of a password.
LONGEST = 72


class TooManyAtOnce(Exception):
    """More passwords are waiting to be compared than may."""


class Users:
    """Answers whether an Authorization header is good."""

    def __init__(self, hashes: Mapping[str, str], worker: Worker) -> None:
        """hashes: bcrypt hashes by name, all well formed."""
        self._hashes = {name.encode(): hashed.encode() for name, hashed in hashes.items()}
        self._worker = worker
        self._secret = secrets.token_bytes(32)
        # Right and wrong apart, so that guesses never push a right one out.
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._waiting: dict[bytes, asyncio.Future[bool]] = {}
        self.compared = 0

    async def let_in(self, header: str) -> bool:
        """Whether it names a user with the right password. Raises TooManyAtOnce."""
        given = _credentials(header)
        if given is None:
            return False
        user, password = given
        digest = self._digest(user + b":" + password)
        if digest in self._right:
            return True
        if digest in self._wrong:
            self._wrong.move_to_end(digest)
            return False
        waiting = self._waiting.get(digest)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING:
                raise TooManyAtOnce
            waiting = asyncio.ensure_future(self._compare(digest, user, password))
            self._waiting[digest] = waiting
            waiting.add_done_callback(lambda _: self._waiting.pop(digest, None))
        # Shielded: who leaves must not spoil it for another who asks the same.
        return await asyncio.shield(waiting)

    async def _compare(self, digest: bytes, user: bytes, password: bytes) -> bool:
        hashed = self._hashes.get(user) or self._fake(user)
        self.compared += 1
        same = await self._worker.run(partial(_same, password[:LONGEST], hashed))
        right = same and user in self._hashes
        remembered = self._right if right else self._wrong
        remembered[digest] = None
        if len(remembered) > MOST_REMEMBERED:
            remembered.popitem(last=False)
        return right

    def _digest(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, hashlib.sha256)

    def _fake(self, user: bytes) -> bytes:
        """A hash that fits no password, so that the time taken tells of no user.

        Its cost is that of one of the real ones, always the same for the same name.
        """
        costs = sorted(hashed[4:6] for hashed in self._hashes.values())
        choice = int.from_bytes(self._digest(user)[:4])
        return b"$2b$%b$%b" % (costs[choice % len(costs)], b"." * 53)


def _same(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:  # what some releases say to a zero byte in the password
        return False


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None
