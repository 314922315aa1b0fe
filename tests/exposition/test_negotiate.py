"""Accept and Accept-Encoding headers of real clients, and malformed headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.families import Format
from exporter.exposition.negotiate import accepts_gzip, negotiate_format
from tests.choices import TEN_EXAMPLES, ten
from tests.exposition.accept_headers import (
    MEDIA_TYPES,
    PROMETHEUS_2,
    SCHEMES,
    VMAGENT,
    prometheus_3,
)

# Of Prometheus' documentation of content negotiation.
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
NATIVE_HISTOGRAMS = tuple(MEDIA_TYPES)
ONLY_TEXT = sorted(set(MEDIA_TYPES) - {"OpenMetricsText1.0.0"})


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS_2, Format.OPENMETRICS),
        (PROMETHEUS_3, Format.OPENMETRICS),
        *((prometheus_3(scheme=scheme), Format.OPENMETRICS) for scheme in SCHEMES),
        # Native histograms come in protobuf alone, which is not exported.
        *((prometheus_3(NATIVE_HISTOGRAMS, scheme), Format.OPENMETRICS) for scheme in SCHEMES),
        # Without a common version, `*/*` matches.
        *((prometheus_3([protocol]), Format.TEXT) for protocol in ONLY_TEXT),
        (prometheus_3(["OpenMetricsText1.0.0"]), Format.OPENMETRICS),
        ("application/openmetrics-text;version=2.0.0;escaping=allow-utf-8;q=0.7", Format.TEXT),
        (VMAGENT, Format.TEXT),
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
        ("zstd,gzip", True),  # Prometheus 3.16 with the feature flag for zstd
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


@TEN_EXAMPLES
@given(ten(st.text()))
def test_no_header_is_an_error(headers: list[str]) -> None:
    for header in headers:
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
