r"""Grammar of one line of a page: a sample, HELP or TYPE. Pure.

A line is valid if Prometheus takes it, as text format 0.0.4 or as OpenMetrics: many servers send
one under the content type of the other. The text format allows blanks, tabs and missing commas
between labels; OpenMetrics allows none of them, but time stamps in seconds and exemplars. In both,
names in quotes may have any characters: those that need quotes become underscores, as on a page for
a scraper that does not accept them. `\q` in a label value is a backslash and a q.
"""

from __future__ import annotations

import math
import re

from exporter.upstream.quoting import (
    Pairs,
    escaped,
    is_utf8,
    legacy_labels,
    legacy_name,
    unquoted,
)

# Bytes of a line; of it, of name and labels, and of the value.
MAX_LINE_LENGTH = 64 << 10
MAX_SERIES_LENGTH = 16384
# Without an exponent, a number of this length cannot overflow.
MAX_VALUE_LENGTH = 300
# Of a sample with line feeds in label values: its lines, and such values.
_MAX_SAMPLE_LINES = 64
_MAX_VALUES_OF_LINES = 4

_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL_NAME = rb"[a-zA-Z_][a-zA-Z0-9_]*+"
_VALUE = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_QUOTED = rb'"%b"' % _VALUE
_QUOTED_IN_LINE = rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
# A number as Go parses it.
_NUMBER = (
    rb"[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+"
    rb"|[Ii][Nn][Ff](?:[Ii][Nn][Ii][Tt][Yy])?+)|[Nn][Aa][Nn]"
)
# What braces contain: labels, and the name of the metric if it is quoted.
_TEXT_ITEM = rb'[ \t]*+(?:(%b|%b)[ \t]*+=[ \t]*+"(%b)"|(%b)(?=[ \t]*+[,}]))[ \t]*+,?+[ \t]*+' % (
    _LABEL_NAME,
    _QUOTED,
    _VALUE,
    _QUOTED,
)
_OPENMETRICS_ITEM = rb"(?:(?:%b|%b)=%b|%b(?=[,}]))(?:,|(?=\}))" % (
    _LABEL_NAME,
    _QUOTED,
    _QUOTED_IN_LINE,
    _QUOTED,
)
_EXEMPLAR_ITEM = rb"(?:%b|%b)=%b(?:,|(?=\}))" % (_LABEL_NAME, _QUOTED_IN_LINE, _QUOTED_IN_LINE)


def _without_groups(pattern: bytes) -> bytes:
    return re.sub(rb"\((?!\?)", b"(?:", pattern)


_TEXT_LABELS = rb"\{[ \t]*+(?:%b)*+\}" % _without_groups(_TEXT_ITEM)
_TEXT_SERIES = rb"(?:(?:%b)[ \t]*+(?:%b)?+|[ \t]*+%b)" % (_NAME, _TEXT_LABELS, _TEXT_LABELS)
_OPENMETRICS_LABELS = rb"\{(?:%b)*+\}" % _OPENMETRICS_ITEM
_OPENMETRICS_SERIES = rb"(?:%b(?:%b)?+|%b)" % (_NAME, _OPENMETRICS_LABELS, _OPENMETRICS_LABELS)

# The common case: no braces or hashes in label values, a decimal number.
_PLAIN = re.compile(
    rb"([^{}# \t]++(?:\{[^{}#]*+\})?)"
    rb" ([+-]?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)(?: [0-9]{1,18})?\Z"
)
_TEXT = re.compile(rb"(%b)[ \t]*+(%b)(?:[ \t]++([0-9]++))?+[ \t]*+\Z" % (_TEXT_SERIES, _NUMBER))
_OPENMETRICS = re.compile(
    rb"(%b) (%b)(?: (%b))?(?: # \{(?:%b)*+\} (%b)(?: (%b))?)?\Z"
    % (_OPENMETRICS_SERIES, _NUMBER, _NUMBER, _EXEMPLAR_ITEM, _NUMBER, _NUMBER)
)
# A line within a label value, and a sample that ends within one.
_WITHIN_VALUE = re.compile(rb"%b\Z" % _VALUE)
_UNCLOSED = re.compile(
    rb'(?:%b)?+[ \t]*+\{[ \t]*+(?:%b)*+(?:%b|%b)[ \t]*+=[ \t]*+"%b\Z'
    % (_NAME, _without_groups(_TEXT_ITEM), _LABEL_NAME, _QUOTED, _VALUE)
)
_METRIC = re.compile(rb"%b\Z" % _NAME)
_ITEM = re.compile(_TEXT_ITEM)
_COMMENT = re.compile(
    rb"[ \t]*+#[ \t]++(HELP|TYPE)[ \t]++(%b|%b)(?:[ \t](.*+))?\Z" % (_NAME, _QUOTED), re.DOTALL
)
# The value of `le` or `quantile`.
_BOUND = re.compile(_NUMBER)
_QUOTE = ord('"')


def split_sample(line: bytes) -> tuple[bytes, bytes]:
    """Returns name and labels, and the value; an empty value if the line is malformed."""
    plain = _PLAIN.match(line)
    if plain is not None:
        series_text, value = plain.groups()
    elif len(line) > MAX_LINE_LENGTH:
        return b"", b""
    else:
        series_text, value = _split_any(line.rstrip(b"\r"))
    if len(value) > MAX_VALUE_LENGTH or (b"e" in value.lower() and _overflows(value)):
        value = b""  # Prometheus would reject the whole page
    return series_text, value


def _split_any(line: bytes) -> tuple[bytes, bytes]:
    text = _TEXT.match(line)
    if text is not None:
        # Milliseconds, of 64 bits.
        time_stamp = text[3].lstrip(b"0") if text[3] else b""
        if len(time_stamp) < 19 or (len(time_stamp) == 19 and int(time_stamp) < 1 << 63):
            return text[1], text[2]
    openmetrics = _OPENMETRICS.match(line)
    if openmetrics is not None:
        time_stamp, exemplar, exemplar_time_stamp = openmetrics.group(3, 4, 5)
        if (
            _is_finite(time_stamp)
            and _is_finite(exemplar_time_stamp)
            and (exemplar is None or (is_utf8(line) and not _overflows(exemplar)))
        ):
            return openmetrics[1], openmetrics[2]
    return b"", b""


def continued(lines: list[bytes], start: int) -> bytes | None:
    """Returns the sample that begins in this line and ends in a later one.

    A label value may contain line feeds. None if the line begins no such sample; an empty one if
    the lines end within the label value.
    """
    sample = lines[start]
    if len(sample) > MAX_SERIES_LENGTH or _UNCLOSED.match(sample) is None:
        return None
    values = 1
    for index in range(start + 1, min(start + _MAX_SAMPLE_LINES, len(lines))):
        line = lines[index]
        sample = b"%b\n%b" % (sample, line)
        if len(sample) > MAX_SERIES_LENGTH:
            return None
        if _WITHIN_VALUE.match(line) is not None:
            continue
        if split_sample(sample)[1]:
            return sample
        values += 1
        if values > _MAX_VALUES_OF_LINES or _UNCLOSED.match(sample) is None:
            return None
    return None if len(lines) - start >= _MAX_SAMPLE_LINES else b""


def parse_series(series_text: bytes) -> tuple[bytes, Pairs] | None:
    """Returns a sample's name and labels, in the order of the page; None if they are malformed.

    series_text: valid UTF-8. Names have legacy characters only; label values have the escapes that
    are necessary. A label with an empty value is absent.
    """
    head, brace, inner = series_text.partition(b"{")
    name = head.strip(b" \t")
    items = _items(inner) if brace else []
    if items is None or (name and _METRIC.match(name) is None):
        return None
    quoted_names = [legacy_name(quoted) for _, _, quoted in items if quoted is not None]
    names = [name, *quoted_names] if name else quoted_names
    pairs = [(label, value) for label, value, quoted in items if quoted is None]
    if b"\\" in series_text or b"\n" in series_text:
        pairs = [(label, escaped(value)) for label, value in pairs]
    if has_quoted_labels := any(label[0] == _QUOTE for label, _ in pairs):
        pairs = [
            (unquoted(label) if label[0] == _QUOTE else label, value) for label, value in pairs
        ]
    present = _present(pairs)
    if len(names) != 1 or not names[0] or present is None:
        return None
    return names[0], legacy_labels(present) if has_quoted_labels else present


def _items(inner: bytes) -> list[tuple[bytes, bytes, bytes | None]] | None:
    """Returns label, value and quoted name of the metric of each item in braces."""
    items: list[tuple[bytes, bytes, bytes | None]] = []
    position = 0
    while position < len(inner) - 1 and (item := _ITEM.match(inner, position)) is not None:
        label, value, quoted_name = item.groups()
        items.append((label, value, quoted_name))
        position = item.end()
    return items if inner[position:].strip(b" \t") == b"}" else None


def _present(pairs: Pairs) -> Pairs | None:
    """Returns the labels with values; None if a name is empty, reserved or repeated."""
    labels = {label for label, _ in pairs}
    if labels & {b"", b"__name__"}:
        return None
    if absent := {label for label, value in pairs if not value}:
        pairs = [pair for pair in pairs if pair[0] not in absent]
        labels -= absent
    return pairs if len(labels) == len(pairs) else None


def parse_comment(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Returns the kind, name and text of a HELP or TYPE line; None for any other."""
    if len(line) > MAX_LINE_LENGTH:
        return None
    match = _COMMENT.match(line.rstrip(b"\r"))
    if match is None or len(match[2]) > MAX_SERIES_LENGTH:
        return None
    name = match[2]
    if name[:1] == b'"':
        if not is_utf8(name):
            return None
        name = legacy_name(name)
    return (match[1], name, match[3] or b"") if name else None


def is_number(text: bytes) -> bool:
    """Returns whether the value of `le` or `quantile` is a number, and not too large."""
    return _BOUND.fullmatch(text) is not None and not _overflows(text)


def _is_finite(number: bytes | None) -> bool:
    return number is None or (number[-1:] in b"0123456789." and not _overflows(number))


def _overflows(number: bytes) -> bool:
    """Returns whether a number written in digits is infinite."""
    return number[-1:].isdigit() and math.isinf(float(number))
