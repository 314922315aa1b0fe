"""Parsing of server addresses: accepted forms, refused forms, and their messages."""

from __future__ import annotations

import pytest

from exporter.http_client.address import (
    Address,
    location_without_secrets,
    parse,
    parse_page,
)
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
    ("http://triton:/v2", "port is missing"),
    ("triton:0", "not a port"),
    ("triton:65536", "not a port"),
    ("triton:\uff18\uff10", "not a port"),
    ("triton:" + "9" * 5000, "not a port"),
    ("grpc://triton:8001", "only http:// and https:// are supported"),
    ("http://proxy:80/a b", "visible ASCII"),
    ("http://proxy:80/a\nb", "visible ASCII"),
    ("http://proxy:80/ä", "visible ASCII"),
    ("http://proxy:80/a#b", "visible ASCII"),
    ("triton:8000?a b", "visible ASCII"),
    ("http://jä:x@triton:8000", "as %XX"),
    ("http://[fe80::1%]:8000", "not host:port"),
    ("http://[fe80::1%a/b]:8000", "not host:port|not a port"),
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
        ("http://triton", "triton", 80, "triton:80"),
        ("https://triton", "triton", 443, "triton:443"),
        ("http://triton/", "triton", 80, "triton:80"),
        ("http://triton?key=a=b", "triton", 80, "triton:80"),
        ("http://triton/a=b", "triton", 80, "triton:80/a=b"),
        ("triton/a/", "triton", 8000, "triton:8000/a"),
        ("me:open%20sesame@triton:8000", "triton", 8000, "triton:8000"),
        ("wine=https://me:open=sesame@triton", "triton", 443, "wine"),
        ("http://[FE80::1%25Eth0]:8000", "fe80::1%Eth0", 8000, "[fe80::1%25Eth0]:8000"),
        ("http://[fe80::1%eth0]", "fe80::1%eth0", 80, "[fe80::1%25eth0]:80"),
    ],
)
def test_addresses(text: str, host: str, port: int, server: str) -> None:
    address = parse(text)
    assert (address.host, address.port, address.server) == (host, port, server)
    written = host.replace("%", "%25")
    assert address.netloc == (f"[{written}]:{port}" if ":" in host else f"{host}:{port}")
    assert "sesame" not in repr(address)


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_invalid_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://admin:sesame@triton:0",
        "http://admin:sesame/sesame@triton:8000",
        "http://admin:sesame?sesame@triton:8000",
        "http://admin:a://sesame@tri ton",
        "ftp://admin:sesame@triton",
        "admin:sesame@",
        "a=http://admin:sesame@triton:x",
        "http://admin:sesame ä@triton",
        "http://triton:8000:1?key=sesame",
        "unix:sesame@x",
    ],
)
def test_the_message_does_not_repeat_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|host|socket|supported|XX|IPv6") as caught:
        parse(text)
    assert "sesame" not in str(caught.value)


def test_the_address_of_a_page() -> None:
    assert parse_page("a=https://proxy/x/metrics?b=c") == (
        Address("proxy", 443, "a", "https"),
        "/x/metrics?b=c",
    )
    assert parse_page("app:8080") == (Address("app", 8080), "/metrics")
    assert parse_page("app:8080/") == (Address("app", 8080), "/")
    assert parse_page("app:8080?a=/b") == (Address("app", 8080), "/metrics?a=/b")
    assert parse_page("a=app/metrics/") == (Address("app", 80, "a"), "/metrics/")
    assert parse_page("a=unix:/run/x=y") == (
        Address("localhost", 80, "a", socket="/run/x=y"),
        "/metrics",
    )
    with pytest.raises(ValueError, match="visible ASCII"):
        parse_page("app/metrics?a#b")


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/metrics/@x", "/metrics/@x"),
        ("https://me:se/same@h/x?t=sesame#f", "https://me:se/same@h/x?…"),
        ("https://me:sesame@h:1/a@b", "https://h:1/a@b"),
        ("//sesame@h/", "//h/"),
        ("metrics/?", "metrics/?…"),
    ],
)
def test_the_address_of_a_redirect_is_shown_without_secrets(location: str, shown: str) -> None:
    assert location_without_secrets(location) == shown


def test_a_failed_check_names_the_setting() -> None:
    assert check_setting("url", parse, "a:1") == Address("a", 1)
    with pytest.raises(ValueError, match=r"\Aurl: 'a:0': what .* not a port from 1 to 65535\Z"):
        check_setting("url", parse, "a:0")
