"""Regular expressions of the settings, matched by RE2 in time linear in the text's length.

Others choose the names of containers, devices and metrics that they match: with Python's `re`, one
name can keep `([a-z0-9]+-?)+` busy for hours, and no other thread runs meanwhile. RE2 has no
lookarounds and no back-references.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

# Limit of a compiled pattern with its cache of states; beyond it, RE2 matches without the cache.
_MAX_PATTERN_BYTES = 1 << 20
_SYNTAX = (
    r"the syntax is RE2's, as in Prometheus: without lookarounds and back-references, and with \z"
    r" instead of \Z"
)
# Python repeats up to N times; RE2 matches the characters.
_NO_MINIMUM = re.compile(r"\{,([0-9]+)\}")
# Words with | between them, as in many expressions: a set of them needs no RE2.
_WORDS = re.compile(r"[A-Za-z0-9_|-]*\Z")


class Pattern:
    """A compiled regular expression. Raises ValueError if it is invalid."""

    @classmethod
    def of_setting(cls, settings: msgspec.Struct, key: str) -> Pattern:
        """Returns the expression of a setting; without RE2 if that is its default."""
        text: str = getattr(settings, key)
        return cls.of_default(text) if text == _defaults(settings)[key] else cls(text)

    @classmethod
    def of_default(cls, text: str) -> Pattern:
        """Returns an expression that is a default, without RE2, which takes 2 MB.

        The defaults take `re` linear time, too, and match the same (tests/test_patterns.py).
        """
        pattern = cls("")
        # Of bytes, in which \d is ASCII, as RE2's.
        pattern._compiled = re.compile(text.encode())
        return pattern

    def __init__(self, text: str) -> None:
        if no_minimum := _NO_MINIMUM.search(text):
            raise ValueError(
                f"{text!r} is not a valid regular expression: {no_minimum[0]} has no minimum:"
                f" write {{0,{no_minimum[1]}}}"
            )
        self._words: frozenset[bytes] = frozenset()
        self._compiled: Any = None
        if _WORDS.match(text):
            self._words = frozenset(text.encode().split(b"|"))
        else:
            self._compiled = _compile(text)

    def fullmatch(self, text: str | bytes) -> bool:
        """Returns whether the expression matches the whole text.

        Bytes that are not UTF-8 match as U+FFFD, or as a question mark if the text has them as
        surrogates.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        data = text.encode("utf-8", "replace")
        if self._compiled is None:
            return data in self._words
        return self._compiled.fullmatch(data) is not None


def _compile(text: str) -> Any:
    import re2  # noqa: PLC0415 - 3 MB and 3 ms, not spent without a source that has patterns

    options = re2.Options()
    options.log_errors = False  # on standard error, besides the exception
    options.never_capture = True
    options.max_mem = _MAX_PATTERN_BYTES
    try:
        return re2.compile(text, options)
    except UnicodeEncodeError:
        reason = "it is not UTF-8"
    except re2.error as error:
        detail = error.args[0] if error.args else b""
        reason = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        reason = f"{reason}; {_SYNTAX}"
    raise ValueError(f"{text!r} is not a valid regular expression: {reason}")


def _defaults(settings: msgspec.Struct) -> dict[str, Any]:
    """Returns the defaults by key. `msgspec.structs.fields` would evaluate all annotations."""
    keys, values = settings.__struct_fields__, settings.__struct_defaults__
    return dict(zip(keys[len(keys) - len(values) :], values, strict=True))


def check_patterns(settings: msgspec.Struct, keys: Iterable[str]) -> None:
    """Raises ValueError ("key: reason") for an invalid expression among these settings.

    A setting that has its default is not compiled: its source may be off.
    """
    defaults = _defaults(settings)
    for key in keys:
        text = getattr(settings, key)
        if text != defaults[key]:
            try:
                Pattern(text)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
