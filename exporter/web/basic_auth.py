"""HTTP basic authentication against bcrypt hashes.

bcrypt is slow on purpose. Comparisons run in threads of their own (PasswordQueue). Results are
cached under an HMAC of the credentials, never the password itself; each process generates its own
key.
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

from exporter.web.password_queue import PasswordQueue

# Cached results: as many valid as invalid credentials.
MAX_CACHED_RESULTS = 256
# bcrypt ignores the rest of a password.
MAX_PASSWORD_BYTES = 72


class BasicAuthenticator:
    """Checks Authorization headers against the users of the web configuration."""

    def __init__(self, hashes: Mapping[str, str], queue: PasswordQueue) -> None:
        """hashes: valid bcrypt hashes by user name."""
        self._hashes = {name.encode(): hashed.encode() for name, hashed in hashes.items()}
        self._queue = queue
        self._secret = secrets.token_bytes(32)
        # Separate caches, so that guesses never evict valid credentials.
        self._valid: OrderedDict[bytes, None] = OrderedDict()
        self._invalid: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self.comparisons = 0
        """bcrypt comparisons so far."""

    async def authenticate(self, header: str, client: str) -> bool:
        """Returns whether the header has a user with the right password.

        client: whose guesses a comparison counts to (client_of). Raises ComparisonQueueFull.
        """
        credentials = _parse_header(header)
        if credentials is None:
            return False
        user, password = credentials
        digest = self._digest(user + b":" + password)
        if digest in self._valid:
            return True
        if digest in self._invalid:
            self._invalid.move_to_end(digest)
            return False
        comparison = self._pending.get(digest)
        if comparison is None:
            comparison = asyncio.ensure_future(self._compare(digest, user, password, client))
            self._pending[digest] = comparison
            comparison.add_done_callback(lambda _: self._pending.pop(digest, None))
        # Shielded: a client that disconnects must not cancel it for another with the same header.
        return await asyncio.shield(comparison)

    async def _compare(self, digest: bytes, user: bytes, password: bytes, client: str) -> bool:
        hashed = self._hashes.get(user) or self._dummy_hash(user)
        call = partial(_checkpw, password[:MAX_PASSWORD_BYTES], hashed)
        matches = await self._queue.compare(client, user, call)
        self.comparisons += 1
        valid = matches and user in self._hashes
        cache = self._valid if valid else self._invalid
        cache[digest] = None
        if len(cache) > MAX_CACHED_RESULTS:
            cache.popitem(last=False)
        return valid

    def _digest(self, message: bytes) -> bytes:
        return hmac.digest(self._secret, message, hashlib.sha256)

    def _dummy_hash(self, user: bytes) -> bytes:
        """Returns a hash that no password matches: the time taken must not reveal user names.

        Its cost is that of a configured hash, always the same for a user name.
        """
        costs = sorted(hashed[4:6] for hashed in self._hashes.values())
        choice = int.from_bytes(self._digest(user)[:4])
        return b"$2b$%b$%b" % (costs[choice % len(costs)], b"." * 53)


def _checkpw(password: bytes, hashed: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - 0.5 MB, not spent without users; in a thread

    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:  # some bcrypt releases raise it for a zero byte in the password
        return False


def _parse_header(header: str) -> tuple[bytes, bytes] | None:
    """Returns user and password; None if the header is not valid basic authentication."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None
