"""The words of the exposition formats: numbers and label values, as prometheus_client writes them.

prometheus_client is the oracle; this is only quicker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

# Label values longer than this are cut. Real names stay far below: a pod's is at most 253
# characters, an image reference with its digest about 330.
MAX_LABEL_LENGTH = 512

_encode = msgspec.json.Encoder().encode


def format_number(value: float) -> str:
    """A float as Go prints it, as prometheus_client does. Raises OverflowError above 1e308."""
    value = float(value)
    return _exact(value, repr(value))


def format_numbers(values: Iterable[float]) -> list[str]:
    """As `number`, for many at once.

    msgspec finds the shortest digits of a float five times as fast as `repr` does. They are the
    same digits; how they are set is the same from 1e-4 to 1e15, which is where numbers are.
    """
    floats = list(map(float, values))
    texts = _encode(floats)[1:-1].decode().split(",") if floats else []
    return [
        text
        if 1e-4 <= value < 1e6 or value == 0
        else _large(text)
        if 1e6 <= value < 1e15
        else format_number(value)
        for value, text in zip(floats, texts, strict=True)
    ]


_EXPONENTS = [f"e+{digits - 1:02d}" for digits in range(17)]


def _large(text: str) -> str:
    """The digits of a number from 1e6 to 1e15, as Go writes them."""
    whole, _, rest = text.partition(".")
    return f"{whole[0]}.{whole[1:]}{rest}".rstrip("0.") + _EXPONENTS[len(whole)]


def _exact(value: float, text: str) -> str:
    """The text of a float that Python wrote, as Go would have it: its exponents begin sooner."""
    dot = text.find(".")
    if dot > 6 and value > 0:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{dot - 1:02d}"
    if dot < 0:  # nan, inf, 1e+16
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)
    return text


def escape_label_value(value: str) -> str:
    """A label value as the formats want it. What is no valid Unicode becomes question marks."""
    if len(value) > MAX_LABEL_LENGTH:
        value = _cut(value)
    if not value.isprintable() or "\\" in value or '"' in value:
        value = value.encode("utf-8", "replace").decode("utf-8")
        value = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


def _cut(value: str) -> str:
    """The beginning of a value of absurd length, and a hash of the whole.

    The hash keeps apart what differs behind the cut: two series must not become one.
    """
    digest = hashlib.blake2s(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{value[: MAX_LABEL_LENGTH - len(digest) - 1]}…{digest}"
