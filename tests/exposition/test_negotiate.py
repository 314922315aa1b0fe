"""Accept and Accept-Encoding headers of real clients, and malformed headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.families import Format
from exporter.exposition.negotiate import accepts_gzip, negotiate_format

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/*", Format.TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", Format.OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', Format.OPENMETRICS),
        ("application/openmetrics-text;version=9.9.9", Format.TEXT),
        ("application/openmetrics-text;version=abc", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.2,text/plain;q=0.9", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=nonsense", Format.TEXT),
        ("application/openmetrics-text;version=1.0.0;q=7", Format.TEXT),
        (";;;,,,=;q=", Format.TEXT),
        ("application/vnd.google.protobuf;proto=x,text/plain", Format.TEXT),
    ],
)
def test_format(accept: str, expected: Format) -> None:
    assert negotiate_format(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("gzip", True),
        ("gzip, deflate, br", True),
        ("GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *;q=1", False),
        ("deflate, br", False),
        ("gzip;q=nan", False),
    ],
)
def test_gzip(header: str, *, expected: bool) -> None:
    assert accepts_gzip(header) is expected


@given(st.text())
def test_no_header_is_an_error(header: str) -> None:
    assert negotiate_format(header) in Format
    assert accepts_gzip(header) in (True, False)


def test_headers_too_long_for_the_cache_are_parsed_alike() -> None:
    long = "text/html;q=0.1," * 100
    assert (
        negotiate_format(f"{long}application/openmetrics-text;version=1.0.0") is Format.OPENMETRICS
    )
    assert negotiate_format(long) is Format.TEXT
    assert accepts_gzip("br," * 300 + "gzip")
    assert not accepts_gzip("br," * 300 + "gzip;q=0")
