"""Formats of kernel files that several sources read. Pure; each line and number on its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from exporter.faults import Faults, quoted

MAX_COUNT = 2**63 - 1
"""The largest count. The kernel's numbers are unsigned: a larger one has wrapped below zero."""
# Numbers of a line of net/dev that are read, of receive and of transmit.
_RECEIVE, _TRANSMIT = slice(0, 4), slice(8, 12)
_NET_DEV_NUMBERS = 16
# A PSI file as the kernel writes it; one that differs is parsed line by line.
_PSI = re.compile(
    rb"some avg[\d.= avg]* total=(\d{1,18})\n(?:full avg[\d.= avg]* total=(\d{1,18})\n)?"
)

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
    if b"".join(fields).isdigit() and max(map(len, fields)) < 19:
        return tuple(map(int, fields))
    numbers = tuple(map(count, fields))
    for field, number in zip(fields, numbers, strict=True):
        if number is None:
            faults.add(f"{quoted(field)} is not a count")
    return numbers


def net_dev(data: bytes, faults: Faults) -> Iterator[tuple[bytes, bytes]]:
    """Parses /proc/PID/net/dev; yields the name of each interface, and the rest of its line.

    Two header lines, which have bars and no colon, then lines of "name: " and 16 numbers.
    """
    for line in data.split(b"\n"):
        name, colon, rest = line.rpartition(b":")  # the name of an alias contains a colon
        if colon and (name := name.strip()):
            yield name, rest
        elif line and b"|" not in line:
            faults.add(f"{quoted(line)} is not an interface")


def net_dev_counts(rest: bytes, faults: Faults) -> Counts | None:
    """Returns eight numbers of an interface, from the rest of its line; None if it has not 16.

    The first four of each direction are read: bytes, packets, errs and drop, of receive and of
    transmit.
    """
    fields = rest.split()
    if len(fields) < _NET_DEV_NUMBERS:
        faults.add(f"{quoted(rest)} is not the 16 numbers of an interface")
        return None
    return counts(fields[_RECEIVE] + fields[_TRANSMIT], faults)


def pressure(data: bytes, faults: Faults) -> tuple[float | None, float | None]:
    """Parses a PSI file; returns the total seconds of its `some` and of its `full` line.

    A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=123", the total in microseconds.
    """
    if match := _PSI.fullmatch(data):
        some, full = match.groups()
        return int(some) / 1e6, int(full) / 1e6 if full is not None else None
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
