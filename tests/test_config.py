"""Settings: precedence, and error messages of one line with origin and key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Settings, load, options
from exporter.errors import ConfigError
from exporter.settings import Duration
from exporter.yaml_file import MAX_FILE_BYTES
from tests.choices import TEN_EXAMPLES, ten


def read(
    text: str | None = None,
    tmp_path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, list[str]] | None = None,
) -> Settings:
    file = None
    if text is not None:
        assert tmp_path is not None
        path = tmp_path / "settings.yml"
        path.write_text(text)
        file = str(path)
    return load(file, environment or {}, flags or {})


def test_flags_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    text = "gpu: {interval: 1s, timeout: 1s}\nhost: {interval: 1m30s}\nweb:\n"
    environment = {
        "INFERENCE_EXPORTER_GPU_INTERVAL": "2s",
        "INFERENCE_EXPORTER_GPU_TIMEOUT": "2",
    }
    settings = read(text, tmp_path, environment, {"gpu.interval": ["9s", "3s"]})
    assert settings.sources["gpu"].interval == Duration(3)
    assert settings.sources["gpu"].timeout == Duration(2)
    assert settings.sources["host"].interval == Duration(90)
    assert settings.sources["triton"].interval == Duration(5)
    assert settings.sources["triton"].expiry == 15
    assert settings.web.listen_address == (":10400",)


def test_bare_on_and_off_in_yaml(tmp_path: Path) -> None:
    settings = read("gpu: {enabled: off}\nhost: {enabled: on}\n", tmp_path)
    assert settings.sources["gpu"].enabled == "off"
    assert settings.sources["host"].enabled == "on"


def web(text: str, tmp_path: Path, name: str) -> object:
    return msgspec.structs.asdict(read(f"web:\n  {name}: {text}\n", tmp_path).web)[name]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("unix_socket_mode", "0660", "0660"),
        ("unix_socket_mode", "0o660", None),
        ("unix_socket_mode", "", "0660"),
        ("config_file", "2026-01-02", "2026-01-02"),
        ("config_file", "yes", "yes"),
        ("config_file", "1_000", "1_000"),
        ("config_file", "1e3", "1e3"),
        ("config_file", "~", ""),
        ("config_file", "'~'", "~"),
        ("config_file", "!!str ~", "~"),
        ("config_file", "!!binary cMOk", "pä"),
        ("config_file", "0x10", "0x10"),
        ("config_file", "=", "="),
        ("max_requests", "0x10", 16),
        ("max_requests", "0b101", 5),
        ("max_requests", "017", 15),
        ("max_requests", "0o17", 15),
        ("max_requests", "1_000", 1000),
        ("max_requests", "1e3", 1000),
        ("max_requests", "'7'", 7),
        ("max_requests", "+7", 7),
        ("max_requests", "null", 64),
        ("max_requests", "''", 64),
        ("max_requests", "1e400", None),
        ("max_requests", "9" * 5000, None),
        ("max_requests", "\u0667", None),
        *(("enable_lifecycle", text, True) for text in ("yes", "on", "True", "y", "'true'", "1")),
        *(("enable_lifecycle", text, False) for text in ("no", "OFF", "n", "~", "''", "0")),
        ("idle_timeout", "90", 90),
        ("idle_timeout", "1m30s", 90),
        ("idle_timeout", "", 120),
        ("listen_address", ":1", (":1",)),
        ("listen_address", "", (":10400",)),
        ("listen_address", "[':1', ~]", (":1",)),
        ("listen_address", "[unix:/a,b]", ("unix:/a", "b")),
        ("listen_address", "'unix:/a,b'", ("unix:/a,b",)),
    ],
)
def test_a_value_is_the_text_that_is_written(
    name: str, text: str, expected: object, tmp_path: Path
) -> None:
    if expected is None or (isinstance(expected, tuple) and "b" in expected):
        with pytest.raises(ConfigError, match=name):
            web(text, tmp_path, name)
    else:
        assert web(text, tmp_path, name) == expected


def test_an_empty_text_is_a_value_where_it_means_something(tmp_path: Path) -> None:
    text = "host: {network_exclude: ''}\ncontrol: {socket: ''}\nupstream: {drop: ''}\n"
    settings = read(text, tmp_path)
    assert msgspec.structs.asdict(settings.sources["host"])["network_exclude"] == ""
    assert settings.control.socket == ""
    text = "host: {network_exclude: }\ncontrol: {socket: }\nupstream: {drop: []}\n"
    text += "triton: {probe: ''}\n"
    settings = read(text, tmp_path)
    assert msgspec.structs.asdict(settings.sources["host"])["network_exclude"] != ""
    assert settings.control.socket == "auto"
    assert msgspec.structs.asdict(settings.sources["upstream"])["drop"] == ()
    assert msgspec.structs.asdict(settings.sources["triton"])["probe"] == "localhost:8000"


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    """As gopkg.in/yaml.v2 decodes them: in the order of the file, mappings are joined."""
    text = """
gpu: &base {interval: 7s, timeout: 3s}
host:
  <<: *base
  timeout: 2s
triton: {timeout: 1s, <<: *base}
itself: {<<: [{interval: 8s}, *base]}
"""
    settings = read(text, tmp_path)
    read_settings = {
        name: (float(section.interval), float(section.timeout))
        for name, section in settings.sources.items()
    }
    assert read_settings["gpu"] == (7, 3)
    assert read_settings["host"] == (7, 2)
    assert read_settings["triton"] == (7, 3)
    assert read_settings["itself"] == (8, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu: &a [*a]", "the anchor 'a' is not complete before its alias (line 1)"),
        ("gpu: *a", "the anchor 'a' is not complete"),
        ("gpu: {<<: 5}", "a merge key (<<) needs a mapping"),
        ("gpu: {<<: [5]}", "a merge key (<<) needs a mapping"),
        ("gpu: {a: &a [{}], <<: *a}", "a merge key (<<) needs a mapping"),
        ("gpu:\n---\nhost:\n", "a second document"),
        ("gpu: {[a]: b}", "a key must be a single value (line 1)"),
        ("web: {config_file: !!binary '%'}", "is not base64"),
        ("web: {config_file: !!null x}", "'x' is not null"),
        (b"gpu: \xff", "invalid leading UTF-8 octet"),
        ("{" + "a: {" * 200 + "}" * 200 + "}", "too many nested collections"),
        (
            "a: &a {"
            + ", ".join(f"k{i}: 1" for i in range(500))
            + "}\nb: {<<: ["
            + "*a, " * 300
            + "]}",
            "copy too much",
        ),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(str(file), {}, {})
    assert str(caught.value).startswith(f"{file}: is not valid YAML: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists(tmp_path: Path) -> None:
    assert read(
        "web: {listen_address: ['127.0.0.1:1', '[::1]:2']}", tmp_path
    ).web.listen_address == (
        "127.0.0.1:1",
        "[::1]:2",
    )
    environment = {"INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": ":1, :2"}
    assert read(environment=environment).web.listen_address == (":1", ":2")
    flags = {"web.listen_address": [":3", ":4"]}
    assert read(environment=environment, flags=flags).web.listen_address == (":3", ":4")


def containers(environment: Mapping[str, str], name: str) -> object:
    section = read(environment=environment).sources["containers"]
    return msgspec.structs.asdict(section)[name]


def test_dockers_own_variables() -> None:
    docker = {"DOCKER_HOST": "unix:///docker.sock"}
    assert containers(docker, "docker_host") == "unix:///docker.sock"
    own = {"INFERENCE_EXPORTER_CONTAINERS_DOCKER_HOST": "unix:///own.sock"}
    assert containers({**docker, **own}, "docker_host") == "unix:///own.sock"
    assert containers({"DOCKER_TLS_VERIFY": "yes please"}, "docker_tls_verify") is True
    assert containers({"DOCKER_TLS_VERIFY": ""}, "docker_tls_verify") is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu: {intervall: 5s}", "gpu.intervall: unknown setting"),
        ("gpux: {interval: 5s}", "gpux: unknown section"),
        ("gpu: 7", "gpu: must be a mapping of settings"),
        ("- gpu", "must be a mapping of sections such as `web:`"),
        ("gpu: {interval: fast}", "gpu.interval: 'fast' is not a duration such as 5s or 500ms"),
        ("gpu: {interval: -5}", "gpu.interval: '-5': a duration must be between 1ms and ten years"),
        ("gpu: {interval: .nan}", "gpu.interval: '.nan' is not a duration such as 5s or 500ms"),
        ("gpu: {interval: nan}", "gpu.interval: 'nan': a duration must be between 1ms and ten"),
        ("gpu: {interval: true}", "gpu.interval: 'true' is not a duration such as 5s or 500ms"),
        ("gpu: {interval: [5]}", "gpu.interval: must be a single value, not a list"),
        ("web: {config_file: {a: b}}", "web.config_file: must be a single value, not a mapping"),
        ("upstream: {url: {a: b}}", "upstream.url: must be a list, or a single value, not a map"),
        ("upstream: {url: [[a]]}", "upstream.url: must be a single value, not a list"),
        ("gpu: {enabled: maybe}", "gpu.enabled: 'maybe' is not one of: auto, on, off"),
        ("page: {dialect: [dcgm, x]}", "page.dialect: 'x' is not one of: dcgm, cadvisor, triton"),
        ("web: {systemd_socket: 2}", "web.systemd_socket: '2' is not true or false"),
        ("web: {max_requests: many}", "web.max_requests: 'many' is not a whole number from 0"),
        ("web: {max_requests: -1}", "web.max_requests: '-1' is not a whole number from 0"),
        ("web: {max_requests: 1.5}", "web.max_requests: '1.5' is not a whole number from 0"),
        ("host: {max_devices: 10001}", "host.max_devices: '10001' is not a whole number from 1 to"),
        ("web: {unix_socket_mode: 999}", "'999' is not an octal number such as 0660"),
        ("web: {listen_address: [nonsense]}", "web.listen_address: 'nonsense' is not host:port"),
        ("web: {listen_address: [':99999']}", "web.listen_address: ':99999' is not host:port"),
        ("web: {listen_address: []}", "web.listen_address: needs at least one address"),
        ("web: {telemetry_path: /}", "web.telemetry_path: '/' cannot be used"),
        ("web: {telemetry_path: metrics}", "web.telemetry_path: 'metrics' is not a path such"),
        ("host: {max_age: 1s}", "host.max_age: 1s is less than the interval of 5s"),
        ("host: {interval: 30s, max_age: 20s}", "host.max_age: 20s is less than the interval"),
        (
            "containers: {labels: [" + "a, " * 33 + "]}",
            "containers.labels: must have at most 32",
        ),
        ("gpu: {interval: 5s\n", "is not valid YAML:"),
        ("gpu: {}\ngpu: {}\n", "duplicate key 'gpu' (line 2)"),
        ("gpu: {interval: 1s, interval: 2s}\n", "duplicate key 'interval' (line 1)"),
        ("? [a]\n: 1\n", "is not valid YAML:"),
        ("\x01", "is not valid YAML:"),
        ("gpu: !!python/object:os.system {}", "is not valid YAML:"),
        ("[" * 5000, "is not valid YAML:"),
    ],
)
def test_the_error_of_a_file_is_one_line_with_file_and_key(
    text: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/settings.yml: ")
    assert expected in message
    assert "\n" not in message


def test_expiry_allows_for_the_interval_and_the_timeout(tmp_path: Path) -> None:
    text = "gpu: {interval: 1s, timeout: 4s}\nhost: {interval: 2s, timeout: 1s}"
    settings = read(text, tmp_path)
    assert settings.sources["gpu"].expiry == Duration(5)
    assert settings.sources["host"].expiry == Duration(6)


def test_only_a_regular_file_of_limited_size_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="fifo: is not a regular file"):
        load(str(tmp_path / "fifo"), {}, {})
    with pytest.raises(ConfigError, match="/dev/zero: is not a regular file"):
        load("/dev/zero", {}, {})
    (tmp_path / "giant").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="giant: is larger than"):
        load(str(tmp_path / "giant"), {}, {})


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yml: cannot be read: No such file"):
        load(str(tmp_path / "absent.yml"), {}, {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(str(tmp_path), {}, {})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "INFERENCE_EXPORTER_GPU_INTERVAL",
            "x",
            "environment INFERENCE_EXPORTER_GPU_INTERVAL: gpu.interval: 'x' is not a duration",
        ),
        (
            "INFERENCE_EXPORTER_GPU_INTERVALL",
            "5s",
            "environment: INFERENCE_EXPORTER_GPU_INTERVALL: unknown setting",
        ),
        ("DOCKER_HOST", "carrier-pigeon://x", "environment DOCKER_HOST: containers.docker_host: "),
    ],
)
def test_the_error_of_a_variable_contains_its_name(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(environment={name: value})
    assert str(caught.value).startswith(expected)


def test_kubernetes_service_variables_are_ignored() -> None:
    read(
        environment={
            "INFERENCE_EXPORTER_SERVICE_HOST": "10.0.0.1",
            "INFERENCE_EXPORTER_SERVICE_PORT": "10400",
            "INFERENCE_EXPORTER_SERVICE_PORT_METRICS": "10400",
            "INFERENCE_EXPORTER_PORT": "tcp://10.0.0.1:10400",
            "INFERENCE_EXPORTER_PORT_10400_TCP": "tcp://10.0.0.1:10400",
            "INFERENCE_EXPORTER_PORT_10400_TCP_PROTO": "tcp",
            "INFERENCE_EXPORTER_PORT_10400_TCP_ADDR": "10.0.0.1",
        }
    )


def test_the_error_of_a_flag_contains_its_name() -> None:
    with pytest.raises(ConfigError) as caught:
        read(flags={"gpu.max_age": ["0"]})
    assert str(caught.value).startswith("flag --gpu.max-age: gpu.max_age: '0': a duration must be")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("0.5", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@TEN_EXAMPLES
@given(ten(st.integers(1, 3 * 10**11)))
def test_a_duration_parses_its_own_text(milliseconds: list[int]) -> None:
    for seconds in (number / 1000 for number in milliseconds):
        assert abs(Duration.parse(str(Duration(seconds))) - seconds) <= seconds * 1e-12


@TEN_EXAMPLES
@given(ten(st.text(max_size=6) | st.floats() | st.integers() | st.none() | st.booleans()))
def test_an_invalid_duration_is_a_value_error(values: list[object]) -> None:
    for value in values:
        try:
            assert Duration.parse(value) > 0
        except ValueError as error:
            assert "duration" in str(error)  # noqa: PT017 - both outcomes are valid


def test_a_value_made_of_aliases_is_not_shown(tmp_path: Path) -> None:
    """Seven anchors make half a million elements; a few more would fill any memory."""
    value = "&a0 [x]"
    for number in range(1, 7):
        value = f"&a{number} [{value}{f', *a{number - 1}' * 8}]"
    with pytest.raises(ConfigError) as raised:
        read(f"gpu: {{interval: {value}}}", tmp_path)
    assert len(str(raised.value)) < 300
    with pytest.raises(ValueError, match="not a duration") as error:
        Duration.parse("9" * 1_000_000 + "x")
    assert len(str(error.value)) < 300


def test_every_option_is_documented_and_its_default_holds() -> None:
    all_options = list(options())
    assert len({option.flag for option in all_options}) == len(all_options)
    for option in all_options:
        assert option.description, option.key
        if isinstance(option.default, str) and option.default:
            assert option.default_text == option.default, "in the same letters"
    settings = read()
    assert {option.section for option in all_options} >= {"web", "log", "path", *settings.sources}
