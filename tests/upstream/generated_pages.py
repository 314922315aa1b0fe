r"""Generates lines and pages: most are valid, the others are almost valid. Seeded.

Names begin with a prefix of the caller's, so that many pages fit on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

_VALUE_PARTS = (
    *(b"a", b"b c", b"0", b"/x", b".", b"{", b"}", b"#", b",", b"=", b" ", b"\t", b"'", b"\r"),
    *(b'\\"', b"\\\\", b"\\n", b"\\t", b"\\d", b"\\x41", b"\\{", b"D:\\w", b"\\'"),
    *("é".encode(), "\U0001f600".encode(), "\u2028".encode(), b"\x00", b"\x7f", b"\x0b", b"\n"),
)
_STRANGE_VALUE_PARTS = (b'"', b"\\", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\\\n")
_QUOTED_NAME_PARTS = (b"a", b".", b"-", b"0", b" ", b":", "é".encode(), b"{", b"=", b"\\\\", b'\\"')
_NUMBERS = (
    *(
        b"0",
        b"1",
        b"7",
        b"-5",
        b"+3",
        b"007",
        b"1.",
        b".5",
        b"-.5",
        b"1.50",
        b"-0",
        b"1e3",
        b"1E+3",
    ),
    *(b"2.5e-7", b"1.697141781462e+09", b"1e-999", b"1e308", b"123456789012345678901234567890"),
    *(b"Inf", b"+Inf", b"-Inf", b"inf", b"INFINITY", b"-infinity", b"NaN", b"nan", b"NAN"),
)
_STRANGE_NUMBERS = (
    *(b"0x10", b"0x1p-2", b"0X1P3", b"1_000", b"0b1", b"0o17", b"1e999", b"-1e400", b"+NaN"),
    *(b"-nan", b"1e", b"e5", b".", b"", b"+", b"1,5", b"infin", b"nana", b"1e5.5", b"--1", b"x"),
    *("\u0661".encode(), b"1e1_0", b"1p3", b'"1"', b"1f", b"true"),
)
_TIMES = (b"0", b"1697141781462", b"1", b"0000000000000000000000007", b"9223372036854775807")
_OPENMETRICS_TIMES = (
    *_TIMES,
    b"1697141781.462",
    b"1.697141781462e+09",
    b"-5",
    b"1.",
    b".5",
    b"-1e3",
)
_STRANGE_TIMES = (
    *(b"9223372036854775808", b"NaN", b"Inf", b"1e999", b"x", b"1 2", b"0x1", b"1_0", b"+", b"5-"),
)
_BLANKS = (b" ", b"\t", b"  ", b" \t ")
# No two spellings of one number: Prometheus 3 stores 1 as 1.0.
_BOUNDS = (b"0.5", b"1", b"2.0", b"+Inf", b"1e3", b"2.5e-05")
_STRANGE_BOUNDS = (b"x", b"", b"1e999", b"\\n", b"0x1", b"-")
_SUFFIXES = {
    b"histogram": (b"_bucket", b"_bucket", b"_sum", b"_count", b"_created"),
    b"gaugehistogram": (b"_bucket", b"_gsum", b"_gcount"),
    b"summary": (b"", b"", b"_sum", b"_count"),
    b"counter": (b"_total", b"_created"),
    b"info": (b"_info",),
}

T = TypeVar("T")
Label = tuple[bytes, bytes]


@dataclass(slots=True)
class Document:
    """A page. strange: the index of a line that may make Prometheus refuse it; None without one."""

    lines: list[bytes] = field(default_factory=list)
    openmetrics: bool = False
    strange: int | None = None

    @property
    def body(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines)

    def without_strange_line(self) -> Document:
        lines = [line for index, line in enumerate(self.lines) if index != self.strange]
        return Document(lines, self.openmetrics)


class Generator:
    """Lines and pages of one seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - test data, no secret
        self._strangeness = 0.0

    def line(self, prefix: bytes) -> bytes:
        """Returns a sample, or what is almost one."""
        self._strangeness = self._random.choice((0, 0, 0.05, 0.2))
        return self._sample(prefix + self._name(), openmetrics=self._chance(0.4))

    def page(self, prefix: bytes) -> Document:
        """Returns a page, with one strange line in one of four."""
        self._strangeness = 0.0
        openmetrics = self._chance(0.4)
        families = [
            self._family(b"%b%d" % (prefix, number), openmetrics=openmetrics)
            for number in range(self._random.randint(1, 4))
        ]
        if self._chance(0.3):  # families in pieces
            lines = [line for family in families for line in family]
            self._random.shuffle(lines)
        else:
            lines = [line for family in families for line in family]
        page = Document(lines, openmetrics)
        if not openmetrics:
            for _ in range(self._random.randint(0, 3)):
                self._insert(page, self._pick((b"", b"#", b"# a comment", b"  ", b"# EOF", b"#x")))
        if self._chance(0.25):
            self._strangeness = 0.4
            strange = self._strange_line(prefix, openmetrics=openmetrics).replace(b"\n", b"")
            page.strange = self._insert(page, strange)
        if openmetrics:
            page.lines.append(b"# EOF")
        return page

    def _strange_line(self, prefix: bytes, *, openmetrics: bool) -> bytes:
        if self._chance(0.7):
            return self._sample(prefix + b"strange", openmetrics=openmetrics)
        name = prefix + b"strange"
        return self._pick(
            (
                b"# TYPE " + name,
                b"# TYPE %b  gauge" % name,
                b"# TYPE %b gauge " % name,
                b"# TYPE %b Gauge" % name,
                b"# TYPE %b nothing" % name,
                b"# TYPE 0%b gauge" % name,
                b"# HELP %b \xff" % name,
                b"# HELP",
                b"#TYPE %b gauge" % name,
                b"?",
                b"{}",
                b'{"status":"UP"}',
                b"<html>",
                name,
                b"# UNIT %b seconds" % name,
            )
        )

    def _insert(self, page: Document, line: bytes) -> int:
        index = self._random.randint(0, len(page.lines))
        page.lines.insert(index, line)
        return index

    def _family(self, name: bytes, *, openmetrics: bool) -> list[bytes]:
        """Returns the lines of a family: metadata, if any, before, after or between samples."""
        types = [b"counter", b"gauge", b"histogram", b"summary"]
        types += (
            [b"info", b"stateset", b"gaugehistogram", b"unknown"] if openmetrics else [b"untyped"]
        )
        type_ = self._pick(types)
        if self._chance(0.2):
            name += (
                b"_total" if type_ == b"counter" else self._pick((b"_sum", b"_created", b"_info"))
            )
        samples = [
            self._sample(name + suffix, openmetrics=openmetrics, label=label)
            for suffix, label in self._samples_of(type_, name)
        ]
        metadata = []
        if self._chance(0.85):
            metadata.append(self._metadata(b"TYPE", name, type_, openmetrics=openmetrics))
        if self._chance(0.1):
            other = self._pick(types)
            metadata.append(self._metadata(b"TYPE", name, other, openmetrics=openmetrics))
        if self._chance(0.5):
            text = self._pick(
                (b"Some text.", b'"x" \\n \\\\ \\d', "é".encode(), b"#", b" y", b"x ")
            )
            metadata.append(self._metadata(b"HELP", name, text, openmetrics=openmetrics))
        if openmetrics and self._chance(0.2) and b"_" in name:
            metadata.append(b"# UNIT %b %b" % (name, name.rpartition(b"_")[2]))
        self._random.shuffle(metadata)
        where = self._random.choice((0, 0, 0, len(samples), self._random.randint(0, len(samples))))
        return [*samples[:where], *metadata, *samples[where:]]

    def _samples_of(self, type_: bytes, name: bytes) -> list[tuple[bytes, Label | None]]:
        """Returns suffixes of sample names, and the label that each needs."""
        bounds = list(_BOUNDS if self._chance(0.95) else _STRANGE_BOUNDS)
        suffixes = list(_SUFFIXES.get(type_, (b"", b"")))
        if self._chance(0.05):
            suffixes.append(self._pick((b"_count", b"_bucket", b"_total", b"")))
        self._random.shuffle(bounds)
        samples: list[tuple[bytes, Label | None]] = []
        for suffix in suffixes:
            label = None
            if type_ == b"stateset":
                label = (name, self._pick((b"a", b"b")))
            elif suffix == b"_bucket" or (type_ == b"summary" and not suffix):
                label = (b"quantile" if type_ == b"summary" else b"le", bounds.pop())
            if self._chance(0.9):
                samples.append((suffix, label))
        return samples

    def _metadata(self, kind: bytes, name: bytes, text: bytes, *, openmetrics: bool) -> bytes:
        if openmetrics or self._chance(0.6):
            return b"# %b %b %b" % (kind, name, text)
        before, blank = self._pick((b"", b" ", b"\t")), self._pick((b" ", b"\t"))
        between = self._pick(_BLANKS)
        return b"%b#%b%b%b%b%b%b" % (before, between, kind, between, name, blank, text)

    def _sample(self, name: bytes, *, openmetrics: bool, label: Label | None = None) -> bytes:
        strict = openmetrics and not self._strange()
        labels = self._labels(strict=strict, label=label)
        quoted = self._strangeness and self._chance(0.1)
        if quoted:
            labels.insert(
                self._random.randint(0, len(labels)) if self._chance(0.3) else 0,
                self._quoted(b"%b%b" % (name, self._join(_QUOTED_NAME_PARTS))),
            )
            name = b""
        blank = b"" if strict else self._blank()
        line = name + blank
        if labels or self._chance(0.1):
            line += b"{" + self._joined(labels, strict=strict) + b"}"
            gap = b" " if strict or self._chance(0.8) else self._blank()
        else:
            gap = b" " if strict or self._chance(0.9) else self._pick(_BLANKS)
        line += gap + self._pick(_STRANGE_NUMBERS if self._strange() else _NUMBERS)
        line += self._time(b" " if strict else self._pick(_BLANKS), openmetrics=openmetrics)
        if openmetrics and self._chance(0.15):
            line += self._exemplar(name)
        if not strict:
            line += self._blank()
        if self._strange() and not quoted:
            position = self._random.randint(len(name), len(line))
            noise = self._pick((b" ", b"{", b"}", b'"', b",", b"#", b"\\", b"\t", b"=", b"1"))
            line = line[:position] + noise + line[position + self._random.randint(0, 1) :]
        return line

    def _time(self, blank: bytes, *, openmetrics: bool) -> bytes:
        if self._strange():
            return blank + self._pick(_STRANGE_TIMES)
        if not self._chance(0.25):
            return b""
        return blank + self._pick(_OPENMETRICS_TIMES if openmetrics else _TIMES)

    def _exemplar(self, name: bytes) -> bytes:
        """Returns an exemplar; before 3.0, Prometheus takes it of counters and buckets only."""
        if not self._strangeness and not name.endswith((b"_total", b"_bucket")):
            return b""
        labels = self._joined(self._labels(strict=True, label=None), strict=True)
        labels = labels.replace(b"\0", b"")  # which only labels of series may have
        value = self._pick(_STRANGE_NUMBERS if self._strange() else _NUMBERS)
        time = b" " + self._pick(_OPENMETRICS_TIMES) if self._chance(0.5) else b""
        return b" # {%b} %b%b" % (labels, value, time)

    def _labels(self, *, strict: bool, label: Label | None) -> list[bytes]:
        names = self._random.sample(
            (b"x", b"y", b"le", b"_", b"job", b"A9", b"quantile", b"__x"), 8
        )
        count = self._pick((0, 1, 1, 2, 3))
        pairs = [
            (
                name,
                self._pick((*_BOUNDS, *_STRANGE_BOUNDS))
                if name in (b"le", b"quantile")
                else self._value(strict=strict),
            )
            for name in names[:count]
        ]
        if label is not None:
            pairs = [label, *(pair for pair in pairs if pair[0] not in (b"le", b"quantile"))]
        if self._strange():
            pairs.append((self._pick((b"x", b"__name__", b"0", b"a-b", b"")), b"1"))
        if self._strange():
            name = self._join(_QUOTED_NAME_PARTS)
            pairs.append((self._quoted(self._pick((b"q" + name, b"x", name[:0]))), b"q"))
        parts = []
        for name, value in pairs:
            before, after = (b"", b"") if strict else (self._blank(), self._blank())
            parts.append(name + before + b"=" + after + b'"' + value + b'"')
        return parts

    def _joined(self, labels: list[bytes], *, strict: bool) -> bytes:
        """Joins labels by commas, with the freedoms of the text format unless `strict`."""
        text = b"" if strict else self._blank()
        for number, label in enumerate(labels):
            if number:
                text += (
                    b"," if strict or self._chance(0.8) else self._pick((b" ", b", ", b" ,", b""))
                )
            text += label
        if labels and not strict and self._chance(0.2):
            text += self._pick((b",", b" ,", b", "))
        if self._strange():
            text += b","
        return text

    def _value(self, *, strict: bool) -> bytes:
        parts = list(_VALUE_PARTS)
        if strict or not self._strangeness:
            parts.remove(b"\n")  # OpenMetrics refuses it
        if self._strange():
            parts += _STRANGE_VALUE_PARTS
        return b"" if self._chance(0.1) else self._join(parts)

    def _join(self, parts: Sequence[bytes]) -> bytes:
        return b"".join(self._random.choices(parts, k=self._random.randint(1, 4)))

    def _quoted(self, text: bytes) -> bytes:
        return b'"' + text + b'"'

    def _name(self) -> bytes:
        return self._pick((b"a", b"b_total", b"c:d", b"E9", b"_", b"f_bucket", b"g_created", b"up"))

    def _blank(self) -> bytes:
        return self._pick(_BLANKS) if self._chance(0.2) else b""

    def _pick(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _strange(self) -> bool:
        return self._chance(self._strangeness)
