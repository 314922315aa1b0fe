"""The decoder of the engine's JSON replies: bounded in values before any of them is built. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.json_struct import TooManyFaults, decode_leniently

# Values (elements of arrays, members of objects) of one reply. Each may take some 200 bytes.
MAX_VALUES, MAX_LIST_VALUES = 100_000, 500_000
T = TypeVar("T")


def decode_reply(
    reply: bytes, struct: type[T], subject: str, faults: Faults, max_values: int = MAX_VALUES
) -> T:
    """Returns the reply as `struct`; invalid characters are replaced, mismatches left out.

    Raises BadData, naming the first mismatch, also for more values than the limit.
    """
    if sum(map(reply.count, (b",", b"[", b"{"))) > max_values:
        raise BadData(f"{subject}: more than {max_values} values")
    try:
        return decode_leniently(reply, struct, faults)
    except (msgspec.ValidationError, TooManyFaults) as error:
        raise BadData(f"{subject}: {str(error)[:200]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"{subject}: not JSON: {str(error)[:200]}") from None
