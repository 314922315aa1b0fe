"""Addresses of servers: what is taken, what is refused, and in which words."""

from __future__ import annotations

import pytest

from exporter.http_client.address import Address, parse
from exporter.settings import Duration
from exporter.sources.triton.settings import Settings


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
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
        ("http://proxy:80/triton?a", "no plain path"),
        ("http://proxy:80/a/../b", "no plain path"),
        ("http://proxy:80//a", "no plain path"),
        ("triton:8000?a", "no plain path"),
        ("unix:relative", "path of a socket"),
        ("::1", "brackets"),
        ("a b=triton:8000", "a server's name"),
        ("=triton:8000", "a server's name"),
    ],
)
def test_what_cannot_be_an_address_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)
    with pytest.raises(ValueError, match=r"\Aurl: "):
        Settings(url=(text,))


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="not supported") as caught:
        parse("http://admin:sesame@triton:8000")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "urls",
    [
        ("triton:8000", "http://triton:8000"),
        ("a=one:8000", "a=two:8000"),
        ("a=one:8000", "one:8000"),
        ("a=one:8000", "b=ONE:8000"),
    ],
)
def test_one_server_twice_is_refused(urls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="given twice"):
        Settings(url=urls)


def test_settings() -> None:
    assert Settings().servers == ()
    assert Settings().window == Duration(60)
    assert Settings(probe="off").probe == "off"
    assert Settings(url=("a=one:1", "two")).servers == (
        Address("one", 1, "a"),
        Address("two", 8000),
    )
    with pytest.raises(ValueError, match=r"\Aprobe: "):
        Settings(probe="http://")
