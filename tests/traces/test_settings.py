"""Settings of the listener: an address that others reach needs a token."""

from __future__ import annotations

import pytest

from exporter.config import load
from exporter.errors import ConfigError
from tests import exporter_process


def settings(**flags: str) -> None:
    load(None, {}, {f"traces.{name}": [value] for name, value in flags.items()})


@pytest.mark.parametrize(
    "address", ["127.0.0.1:4318", "localhost:4318", "[::1]:4318", "127.9.9.9:0"]
)
def test_loopback_needs_no_token(address: str) -> None:
    settings(listen_address=address)


@pytest.mark.parametrize(
    "address", [":4318", "0.0.0.0:4318", "172.17.0.1:4318", "[::]:4318", "gpu-7:4318"]
)
def test_other_addresses_need_a_token(address: str) -> None:
    settings(listen_address=address, token="secret")  # noqa: S106 - no real one
    with pytest.raises(ConfigError, match=r"traces\.listen_address: .* set traces\.token"):
        settings(listen_address=address)


def test_bad_settings_name_their_key() -> None:
    for flags, key in (
        ({"listen_address": "127.0.0.1"}, "listen_address"),
        ({"manage_triton": "true"}, "manage_triton"),
        ({"rate": "0"}, "rate"),
        ({"max_posts": "0"}, "max_posts"),
    ):
        with pytest.raises(ConfigError) as error:
            settings(**flags)
        assert error.value.key == f"traces.{key}"


def test_an_open_listener_without_a_token_does_not_start() -> None:
    done = exporter_process.run("--traces.listen-address=:4318")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "flag --traces.listen-address: traces.listen_address" in line
