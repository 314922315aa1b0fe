"""Accept and Accept-Encoding as real clients send them, and as nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.families import Format
from exporter.exposition.negotiate import format_for, wants_gzip

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
    assert format_for(accept) is expected


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
    assert wants_gzip(header) is expected


@given(st.text())
def test_nothing_a_client_sends_is_an_error(header: str) -> None:
    assert format_for(header) in Format
    assert wants_gzip(header) in (True, False)


def test_long_headers_are_read_as_short_ones_are() -> None:
    long = "text/html;q=0.1," * 100
    assert format_for(f"{long}application/openmetrics-text;version=1.0.0") is Format.OPENMETRICS
    assert format_for(long) is Format.TEXT
    assert wants_gzip("br," * 300 + "gzip")
    assert not wants_gzip("br," * 300 + "gzip;q=0")
