"""The Compose stack: mounts exist, settings are valid, ports are on the loopback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exporter import __version__
from exporter.config import load, options
from tests import yaml_files
from tests.deploy.wheel import CACHE
from tests.paths import ROOT
from tests.prometheus import PROMTOOLS

FOLDER = ROOT / "deploy" / "compose"
STACK = yaml_files.load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
COMPOSE = CACHE / "bin" / "compose" / "cmd"
PROFILES = ((), ("gpu",), ("demo",), ("gpu", "alerting"), ("demo", "alerting"))
# Host paths that a build machine may lack.
HOST_PATHS = {"/proc", "/sys", "/var/run/docker.sock"}


def host_path(volume: str) -> str:
    """Returns the host path of a mount, with defaults substituted."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume)
    return text.split(":")[0]


@pytest.mark.parametrize("name", SERVICES)
def test_bind_mounts_exist_and_are_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        path = host_path(volume)
        if path in STACK["volumes"]:
            continue  # a data volume
        assert volume.endswith(":ro"), volume
        if path not in HOST_PATHS:
            assert (FOLDER / path).exists(), volume


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
    assert ("docker.sock" in mounts) == name.startswith("exporter"), (
        "only the exporter gets the socket"
    )


def test_the_exporter_has_this_version_and_valid_settings() -> None:
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
    required = set(re.findall(r"\$\{(\w+)", text))
    documented = set(
        re.findall(r"^(?:# )?(\w+)=", (FOLDER / ".env.example").read_text(), re.MULTILINE)
    )
    assert required == documented


def test_prometheus_finds_the_exporter_and_the_rules(tmp_path: Path) -> None:
    config = yaml_files.load((FOLDER / "prometheus.yml").read_text())
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "inference")
    assert job["static_configs"] == [{"targets": ["exporter:10400"]}]
    for name in ("exporter", "exporter-demo"):
        assert SERVICES[name]["networks"]["default"]["aliases"] == ["exporter"]
    (mount,) = (v for v in SERVICES["prometheus"]["volumes"] if "../../prometheus" in v)
    container_path = mount.split(":")[1]
    for rule in (ROOT / "prometheus").rglob("*.y*ml"):
        if "groups" in yaml_files.load(rule.read_text()):
            path = Path(container_path) / rule.relative_to(ROOT / "prometheus")
            assert any(path.match(pattern) for pattern in config["rule_files"]), path
    copy = tmp_path / "prometheus.yml"
    text = (FOLDER / "prometheus.yml").read_text()
    copy.write_text(text.replace(container_path, str(ROOT / "prometheus")))
    for promtool in filter(shutil.which, PROMTOOLS.values()):
        subprocess.run([promtool, "check", "config", copy], check=True, capture_output=True)


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    sources = yaml_files.load((folder / "datasources" / "prometheus.yaml").read_text())
    assert [source["url"] for source in sources["datasources"]] == ["http://prometheus:9090"]
    dashboards = yaml_files.load((folder / "dashboards" / "inference.yaml").read_text())
    (provider,) = dashboards["providers"]
    mounts = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    (path,) = (mount[0] for mount in mounts if mount[1] == provider["options"]["path"])
    assert list((FOLDER / path).glob("*.json")), "the folder has dashboards"


@pytest.mark.parametrize("profiles", PROFILES, ids=lambda profiles: "+".join(profiles) or "none")
@pytest.mark.parametrize("overrides", [(), ("socket-proxy.yaml",)], ids=["socket", "proxy"])
def test_docker_compose_validates_it(profiles: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    if not COMPOSE.exists():
        pytest.skip("no docker compose; `make compose` builds it and runs this test")
    command: list[str | Path] = [COMPOSE]
    for file in ("compose.yaml", *overrides):
        command += ["-f", FOLDER / file]
    for profile in profiles:
        command += ["--profile", profile]
    environment = {**os.environ, "GRAFANA_PASSWORD": "secret", "DOCKER_GID": "998"}
    done = subprocess.run(
        [*command, "config"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services = yaml_files.load(done.stdout)["services"]
    assert {"prometheus", "grafana"} <= set(services)
    assert ("triton" in services) == ("gpu" in profiles)
    assert ("load-demo" in services) == ("demo" in profiles)
    if overrides and "gpu" in profiles:
        assert "docker.sock" not in str(services["exporter"])
    del environment["GRAFANA_PASSWORD"]
    done = subprocess.run(
        [*command, "config"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "GRAFANA_PASSWORD" in done.stderr
