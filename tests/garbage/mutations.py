"""Damages to one line or number of a text, or to one member or element of a JSON document."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(Enum):
    """Kinds of damages."""

    LOST = "replaced by garbage, emptied or removed"
    DOUBLED = "doubled"
    NUMBER = "a number is invalid, or one that the kernel does not write"
    CHARACTER = "a carriage return, a NUL or invalid UTF-8 inside"


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged content.

    part: the line or path that is damaged. text: for a failure's message. silent: whether it is a
    way to say that a value is not available, so that its loss is no fault.
    """

    part: Any
    kind: Kind
    text: str
    content: bytes
    silent: bool = False


INVALID_NUMBERS = (
    *("-1", str(2**63), str(2**64 - 1), str(2**64 - 4096), str(2**64), "9" * 400),
    *("x", "1_0", "0x10", "nan", "1e5"),
)
_GARBAGE = (
    *(b"garbage", b"(unknown) x=y", b"\x00\x01\xff\xfe", b":::", b"\xc3\x28 - 7:7", b" "),
    b"\xf0\x9f\x98\x80 = 1 2 3",
)
_STRANGE = (b"\r", b"\x00", b"\xff")
_NUMBER = re.compile(rb"(?<![\w.+-])-?\d+(?:\.\d+)?(?![\w.])")


def line_damages(content: bytes, number: int) -> Iterator[Damage]:
    """Yields the damages of a line."""
    lines = content.split(b"\n")
    line = lines[number]

    def damage(kind: Kind, text: str, *new: bytes) -> Damage:
        return Damage(number, kind, text, b"\n".join([*lines[:number], *new, *lines[number + 1 :]]))

    for garbage in _GARBAGE:
        yield damage(Kind.LOST, f"{line!r} -> {garbage!r}", garbage)
    yield damage(Kind.LOST, f"{line!r} emptied", b"")
    yield damage(Kind.LOST, f"{line!r} removed")
    yield damage(Kind.LOST, f"{line!r} cut off", line[: len(line) // 2])
    yield damage(Kind.DOUBLED, f"{line!r} doubled", line, line)
    for match in _NUMBER.finditer(line):
        for invalid in (f"-{match[0].decode()}", *INVALID_NUMBERS):
            new = line[: match.start()] + invalid.encode() + line[match.end() :]
            yield damage(Kind.NUMBER, f"{line!r} -> {new!r}", new)
    for strange in _STRANGE:
        for place in {0, len(line) // 2, len(line)}:
            new = line[:place] + strange + line[place:]
            yield damage(Kind.CHARACTER, f"{line!r} -> {new!r}", new)


def line_probes(content: bytes, number: int) -> Iterator[bytes]:
    """Yields contents with one number of the line changed to another valid one."""
    lines = content.split(b"\n")
    line = lines[number]
    for match in _NUMBER.finditer(line):
        text = match[0].decode()
        if not text.startswith("-"):
            for other in (f"{text[:-1]}{(int(text[-1]) + 3) % 10}", f"1{text[1:]}7"):
                new = line[: match.start()] + other.encode() + line[match.end() :]
                yield b"\n".join([*lines[:number], new, *lines[number + 1 :]])


Path = tuple[str | int, ...]
_MARK = "STRANGE-CHARACTER"


def paths(document: Any, path: Path = ()) -> Iterator[Path]:
    """Yields the paths of all members and elements, the outer ones first."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from paths(value, (*path, index))


def at(document: Any, path: Path) -> Any:
    """Returns the value at a path."""
    for step in path:
        document = document[step]
    return document


def _changed(document: Any, path: Path, change: Callable[[Any, Any], None]) -> Any:
    """Returns a copy with a change of the parent of the value at a path. change: parent, step.

    The parts outside of the path are those of the document.
    """
    new = parent = copy.copy(document)
    for step in path[:-1]:
        parent[step] = copy.copy(parent[step])
        parent = parent[step]
    change(parent, path[-1])
    return new


def replaced(document: Any, path: Path, value: Any) -> Any:
    """Returns a copy with another value at a path."""
    return _changed(document, path, lambda parent, step: parent.__setitem__(step, value))


_OTHERS: tuple[Any, ...] = (
    *("garbage", "", 12.5, -1, 2**63, 2**64 - 1, 2**64 - 4096, 10**40, True, None),
    *([], {}, [[]], {"x": [1]}, [None, "x"]),
)


def member_damages(document: Any, path: Path) -> Iterator[Damage]:
    """Yields the damages of a member or an element."""
    value = at(document, path)

    def damage(
        kind: Kind, text: str, new: Any, replace: tuple[bytes, bytes] = (b"", b"")
    ) -> Damage:
        content = json.dumps(new).encode()
        if replace[0]:
            content = content.replace(*replace)
        return Damage(path, kind, f"{path}: {text}", content)

    for other in _OTHERS:
        if type(other) is not type(value) or isinstance(value, (int, float)):
            kind = Kind.NUMBER if _is_number(value) and _is_number(other) else Kind.LOST
            yield damage(kind, f"{value!r} -> {other!r}", replaced(document, path, other))
    removed = _changed(document, path, lambda parent, step: parent.pop(step))
    yield damage(Kind.LOST, "removed", removed)
    if isinstance(path[-1], int):
        doubled = _changed(document, path, lambda parent, step: parent.insert(step, parent[step]))
        yield damage(Kind.DOUBLED, "doubled", doubled)
    else:
        renamed = _changed(
            document, path, lambda parent, step: parent.update({f"{step}\r\0": parent.pop(step)})
        )
        yield damage(Kind.LOST, "under another key", renamed)
        again = f'"{path[-1]}": {json.dumps(value)}, "{path[-1]}":'.encode()
        yield damage(
            Kind.DOUBLED,
            "doubled",
            _changed(document, path, lambda parent, step: parent.update({_MARK: parent.pop(step)})),
            (f'"{_MARK}":'.encode(), again),
        )
    if isinstance(value, str):
        marked = replaced(
            document, path, value[: len(value) // 2] + _MARK + value[len(value) // 2 :]
        )
        for strange in (*_STRANGE, rb"\r", rb"\u0000", rb"\ud800"):
            yield damage(
                Kind.CHARACTER, f"{strange!r} in {value!r}", marked, (_MARK.encode(), strange)
            )


def member_probes(document: Any, path: Path) -> Iterator[bytes]:
    """Yields documents with another valid value at a path: a number or a truth value."""
    value = at(document, path)
    others: tuple[Any, ...] = ()
    if isinstance(value, bool):
        others = (not value,)
    elif isinstance(value, int):
        others = (value + 3, value * 10 + 7)
    for other in others:
        yield json.dumps(replaced(document, path, other)).encode()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
