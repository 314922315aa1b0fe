"""Formats numbers and label values of the exposition formats.

The output is prometheus_client's, the test oracle (tests/exposition/oracle.py), but faster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

# Longer label values are truncated. Real names are far shorter: a pod's name has at most 253
# characters, an image reference with its digest about 330.
MAX_LABEL_LENGTH = 512

_encode = msgspec.json.Encoder().encode


def format_number(value: float) -> str:
    """Formats a float as Go does, like prometheus_client. Raises OverflowError above 1e308."""
    value = float(value)
    return _go_format(value, repr(value))


def format_numbers(values: Iterable[float]) -> list[str]:
    """Formats many floats like `format_number`.

    msgspec computes a float's shortest digits five times as fast as `repr`. The digits are the
    same, and so is the notation from 1e-4 to 1e15, the range of nearly all values.
    """
    floats = list(map(float, values))
    texts = _encode(floats)[1:-1].decode().split(",") if floats else []
    return [
        text
        if 1e-4 <= value < 1e6 or value == 0
        else _exponent_format(text)
        if 1e6 <= value < 1e15
        else format_number(value)
        for value, text in zip(floats, texts, strict=True)
    ]


_EXPONENTS = [f"e+{digits - 1:02d}" for digits in range(17)]


def _exponent_format(text: str) -> str:
    """Returns the text of a number from 1e6 to 1e15 with an exponent, as Go formats it."""
    integer, _, fraction = text.partition(".")
    return f"{integer[0]}.{integer[1:]}{fraction}".rstrip("0.") + _EXPONENTS[len(integer)]


def _go_format(value: float, text: str) -> str:
    """Returns a float's `repr` in Go's format, which uses exponents from 1e6 instead of 1e16."""
    dot = text.find(".")
    if dot > 6 and value > 0:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    if dot < 0:  # nan, inf, 1e+16
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)
    return text


def escape_label_value(value: str) -> str:
    """Returns the label value escaped and truncated; invalid Unicode becomes question marks."""
    if len(value) > MAX_LABEL_LENGTH:
        value = _truncate(value)
    if not value.isprintable() or "\\" in value or '"' in value:
        value = value.encode("utf-8", "replace").decode("utf-8")
        value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _truncate(value: str) -> str:
    """Returns the start of a long value and a hash of all of it.

    The hash keeps two series apart whose values differ after the truncation only.
    """
    digest = hashlib.blake2s(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{value[: MAX_LABEL_LENGTH - len(digest) - 1]}…{digest}"
