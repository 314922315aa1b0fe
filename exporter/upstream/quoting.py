r"""Quoted text of a page: escapes in label values and HELP texts, names in quotes. Pure."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb'\\([\\"n])')
_ESCAPES = re.compile(rb'(\\[\\"n])')
_ESCAPES_OF_HELP = re.compile(rb"(\\[\\n])")
_LEGACY_LABEL = re.compile(rb"[a-zA-Z_][a-zA-Z0-9_]*")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_:]")

Pairs = list[tuple[bytes, bytes]]
"""Labels of a series: names and values."""


def legacy_name(quoted: bytes) -> bytes:
    """Returns a name in quotes with an underscore for each character that would need them."""
    return _with_underscores(unquoted(quoted))


def legacy_labels(pairs: Pairs) -> Pairs:
    """Returns the labels with such names; one that is taken ends in a further underscore."""
    taken = {label for label, _ in pairs if _LEGACY_LABEL.fullmatch(label)}
    renamed: Pairs = []
    for label, value in pairs:
        name = label
        if label not in taken:
            name = _with_underscores(label).replace(b":", b"_")
            while name in taken:
                name += b"_"
            taken.add(name)
        renamed.append((name, value))
    return renamed


def _with_underscores(name: bytes) -> bytes:
    text = _NOT_IN_NAMES.sub("_", name.decode())
    return (f"_{text[1:]}" if text[:1].isdigit() else text).encode()


def unquoted(quoted: bytes) -> bytes:
    return _ESCAPE.sub(_unescape, quoted[1:-1])


def _unescape(match: re.Match[bytes]) -> bytes:
    return b"\n" if match[1] == b"n" else match[1]


def escaped(value: bytes) -> bytes:
    """Returns a label value of a page, with escapes for all backslashes and line feeds."""
    if b"\\" not in value and b"\n" not in value:
        return value
    parts = _ESCAPES.split(value)
    parts[::2] = [part.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") for part in parts[::2]]
    return b"".join(parts)


def escaped_help(text: bytes, *, openmetrics: bool) -> bytes:
    r"""Returns a HELP text with the escapes of the text format. OpenMetrics escapes quotes, too."""
    if b"\\" not in text:
        return text
    parts = _ESCAPES_OF_HELP.split(text)
    for index in range(0, len(parts), 2):
        part = parts[index].replace(b'\\"', b'"') if openmetrics else parts[index]
        parts[index] = part.replace(b"\\", b"\\\\")
    return b"".join(parts)


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
