"""Settings of the Triton source: accepted and refused values."""

from __future__ import annotations

import pytest

from exporter.http_client.address import Address
from exporter.settings import Duration
from exporter.sources.triton.settings import Settings
from tests.http_client.test_address import INVALID


@pytest.mark.parametrize(("text", "message"), INVALID)
def test_invalid_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"\Aurl: .*{message}"):
        Settings(url=(text,))


@pytest.mark.parametrize(
    "urls",
    [
        ("triton:8000", "http://triton:8000"),
        ("a=one:8000", "a=two:8000"),
        ("a=one:8000", "one:8000"),
        ("a=one:8000", "b=ONE:8000"),
    ],
)
def test_a_server_given_twice_is_refused(urls: tuple[str, ...]) -> None:
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
