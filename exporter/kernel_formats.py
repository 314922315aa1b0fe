"""Formats of kernel files that several sources read. Pure; each line and number on its own."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.faults import Faults, quoted

MAX_COUNT = 2**63 - 1
"""The largest count. The kernel's numbers are unsigned: a larger one has wrapped below zero."""
# Numbers of a line of net/dev that are read, of receive and of transmit.
_RECEIVE, _TRANSMIT = slice(0, 4), slice(8, 12)
_NET_DEV_NUMBERS = 16

Counts = tuple[int | None, ...]


def count(text: bytes) -> int | None:
    """Returns a count; None for anything else: "-1", "1_000", an underflow such as 2^64 - 1."""
    if not text.isdigit() or len(text) > 20:
        return None
    number = int(text)
    return number if number <= MAX_COUNT else None


def counts(fields: list[bytes], faults: Faults) -> Counts:
    """Returns a count for each field; None for a field that is none, which is a fault."""
    # One test for all; a number of less than 19 digits is below MAX_COUNT.
    if b"".join(fields).isdigit() and max(map(len, fields)) < 19 and b"" not in fields:
        return tuple(map(int, fields))
    numbers = tuple(map(count, fields))
    for field, number in zip(fields, numbers, strict=True):
        if number is None:
            faults.add(f"{quoted(field)} is not a count")
    return numbers


def net_dev(data: bytes, faults: Faults) -> Iterator[tuple[bytes, Counts]]:
    """Parses /proc/PID/net/dev; yields the name and eight numbers of each interface.

    Two header lines, then lines of "name: " and 16 numbers, of which the first four of a direction
    are read: bytes, packets, errs and drop, of receive and of transmit.
    """
    for line in data.split(b"\n")[2:]:
        if not line:
            continue
        name, colon, rest = line.rpartition(b":")  # the name of an alias contains a colon
        name, fields = name.strip(), rest.split()
        if not colon or not name or len(fields) < _NET_DEV_NUMBERS:
            faults.add(f"{quoted(line)} is not an interface with 16 numbers")
        else:
            yield name, counts(fields[_RECEIVE] + fields[_TRANSMIT], faults)


def pressure(data: bytes, faults: Faults) -> tuple[float | None, float | None]:
    """Parses a PSI file; returns the total seconds of its `some` and of its `full` line.

    A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=123", the total in microseconds.
    """
    totals: dict[bytes, float] = {}
    for line in data.split(b"\n"):
        kind, _, rest = line.partition(b" ")
        if kind not in (b"some", b"full"):
            if line.strip():
                faults.add(f"{quoted(line)} is neither `some` nor `full`")
            continue
        total = count(rest.rpartition(b" total=")[2].strip())
        if total is None:
            faults.add(f"{quoted(line)} has no total")
        else:
            totals.setdefault(kind, total / 1e6)
    return totals.get(b"some"), totals.get(b"full")
