"""Parsing of server addresses: accepted forms, refused forms, and their messages."""

from __future__ import annotations

import pytest

from exporter.http_client.address import Address, parse, parse_page
from exporter.http_client.setting_checks import check_setting

INVALID = [
    ("", "not host:port"),
    (":8000", "not host:port"),
    ("a b:8000", "not host:port"),
    ("a..b:8000", "not host:port"),
    ("-a:8000", "not host:port"),
    ("a" * 60 + "!:8000", "not host:port"),
    ("a." * 130 + "b:8000", "not host:port"),
    ("triton:", "port is missing"),
    ("http://triton", "port is missing"),
    ("triton:0", "not a port"),
    ("triton:65536", "not a port"),
    ("triton:\uff18\uff10", "not a port"),
    ("triton:" + "9" * 5000, "not a port"),
    ("grpc://triton:8001", "grpc:// is not supported"),
    ("http://proxy:80/triton?a", "not a plain path"),
    ("http://proxy:80/a/../b", "not a plain path"),
    ("http://proxy:80//a", "not a plain path"),
    ("triton:8000?a", "not a plain path"),
    ("unix:relative", "path of a socket"),
    ("::1", "brackets"),
    ("a b=triton:8000", "a server's name"),
    ("=triton:8000", "a server's name"),
]
"""Texts with a part of the message."""


@pytest.mark.parametrize(
    ("text", "host", "port", "server"),
    [
        ("triton:8000", "triton", 8000, "triton:8000"),
        ("triton", "triton", 8000, "triton:8000"),
        ("http://Triton.example:80/", "triton.example", 80, "triton.example:80"),
        ("HTTP://10.0.0.1:8000", "10.0.0.1", 8000, "10.0.0.1:8000"),
        ("[::1]:8000", "::1", 8000, "[::1]:8000"),
        ("[::1]", "::1", 8000, "[::1]:8000"),
        ("wine=http://triton_1:9000", "triton_1", 9000, "wine"),
        ("wine=triton:9000", "triton", 9000, "wine"),
    ],
)
def test_addresses(text: str, host: str, port: int, server: str) -> None:
    address = parse(text)
    assert (address.host, address.port, address.server) == (host, port, server)
    assert address.netloc == (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_invalid_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="not supported") as caught:
        parse("http://admin:sesame@triton:8000")
    assert "sesame" not in str(caught.value)


def test_the_address_of_a_page() -> None:
    assert parse_page("a=https://proxy/x/metrics?b=c") == (
        Address("proxy", 443, "a", "https"),
        "/x/metrics?b=c",
    )
    assert parse_page("app:8080") == (Address("app", 8080), "/metrics")
    with pytest.raises(ValueError, match="not a plain query"):
        parse_page("app/metrics?a#b")


def test_a_failed_check_names_the_setting() -> None:
    assert check_setting("url", parse, "a:1") == Address("a", 1)
    with pytest.raises(ValueError, match=r"\Aurl: 'a:0': '0' is not a port\Z"):
        check_setting("url", parse, "a:0")
