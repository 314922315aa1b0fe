"""The compose stack: what it mounts is there, what it sets is known, what it exposes is little."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter import __version__
from exporter.config import load, options
from tests.deploy.wheel import CACHE
from tests.paths import ROOT

FOLDER = ROOT / "deploy" / "compose"
STACK = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
COMPOSE = CACHE / "bin" / "compose" / "cmd"
PROFILES = ((), ("gpu",), ("demo",), ("gpu", "alerting"), ("demo", "alerting"))
# Parts of the host, of which a build machine may have none.
HOST = {"/proc", "/sys", "/var/run/docker.sock"}


def source(volume: str) -> str:
    """The host's side of a mount, with defaults put in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume)
    return text.split(":")[0]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_mounts_is_there_and_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        place = source(volume)
        if place in STACK["volumes"]:
            continue  # its own data
        assert volume.endswith(":ro"), volume
        if place not in HOST:
            assert (FOLDER / place).exists(), volume


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_confined_and_on_the_loopback(name: str) -> None:
    service = SERVICES[name]
    tag = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", service["image"]).rpartition(":")[2]
    assert re.search(r"\d+\.\d+", tag), f"{service['image']}: not a pinned version"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port
    assert not service.get("privileged")
    if "triton" not in name:
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["cap_drop"] == ["ALL"]
    mounts = " ".join(service.get("volumes", ()))
    assert ("docker.sock" in mounts) == name.startswith("exporter"), "nobody else gets the socket"


def test_the_exporter_is_of_this_version_and_knows_its_settings() -> None:
    known = {f"INFERENCE_EXPORTER_{option.key.replace('.', '_')}".upper() for option in options()}
    known |= {alias for option in options() for alias in option.aliases}
    for name in ("exporter", "exporter-demo"):
        service = SERVICES[name]
        assert f":-inference-exporter:{__version__}" in service["image"]
        assert "healthcheck" not in service, "the image brings its own"
        environment = {
            key: value
            for key, value in service["environment"].items()
            if not key.startswith("NVIDIA_")
        }
        assert set(environment) <= known
        load(None, environment, {})


def test_passwords_have_no_default() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    assert "${GRAFANA_PASSWORD:?" in text
    assert "${DOCKER_GID:?" in text
    asked = set(re.findall(r"\$\{(\w+)", text))
    offered = set(
        re.findall(r"^(?:# )?(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    )
    assert asked == offered


def test_prometheus_finds_the_exporter_and_the_rules(tmp_path: Path) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = (each for each in config["scrape_configs"] if each["job_name"] == "inference")
    assert job["static_configs"] == [{"targets": ["exporter:10400"]}]
    for name in ("exporter", "exporter-demo"):
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["exporter"]
    (mount,) = (v for v in SERVICES["prometheus"]["volumes"] if "../../prometheus" in v)
    inside = mount.split(":")[1]
    for rule in (ROOT / "prometheus").rglob("*.y*ml"):
        if "groups" in yaml.safe_load(rule.read_text()):
            there = Path(inside) / rule.relative_to(ROOT / "prometheus")
            assert any(there.match(pattern) for pattern in config["rule_files"]), there
    if (promtool := shutil.which("promtool")) is not None:
        copy = tmp_path / "prometheus.yml"
        copy.write_text(
            (FOLDER / "prometheus.yml").read_text().replace(inside, str(ROOT / "prometheus"))
        )
        subprocess.run([promtool, "check", "config", copy], check=True, capture_output=True)


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    (one,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert one["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((folder / "dashboards" / "inference.yaml").read_text())[
        "providers"
    ]
    mounts = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    (place,) = (mount[0] for mount in mounts if mount[1] == provider["options"]["path"])
    assert list((FOLDER / place).glob("*.json")), "there are dashboards to show"


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda chosen: "+".join(chosen) or "none")
@pytest.mark.parametrize("more", [(), ("socket-proxy.yaml",)], ids=["socket", "proxy"])
def test_compose_itself_takes_it(profiles: tuple[str, ...], more: tuple[str, ...]) -> None:
    if not COMPOSE.exists():
        pytest.skip("no compose; `make compose` installs it, and runs this")
    command: list[str | Path] = [COMPOSE]
    for file in ("compose.yaml", *more):
        command += ["-f", FOLDER / file]
    for profile in profiles:
        command += ["--profile", profile]
    environment = {**os.environ, "GRAFANA_PASSWORD": "secret", "DOCKER_GID": "998"}
    done = subprocess.run(
        [*command, "config"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert {"prometheus", "grafana"} <= set(services)
    assert ("triton" in services) == ("gpu" in profiles)
    assert ("load-demo" in services) == ("demo" in profiles)
    if more and "gpu" in profiles:
        assert "docker.sock" not in str(services["exporter"])
    del environment["GRAFANA_PASSWORD"]
    done = subprocess.run(
        [*command, "config"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "GRAFANA_PASSWORD" in done.stderr
