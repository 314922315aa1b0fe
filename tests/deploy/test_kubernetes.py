"""The manifests and the chart: against Kubernetes' schemas, and the operator's by fields used."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from kubernetes_validate import ValidationError, latest_version, validate
from kubernetes_validate.utils import all_versions

from exporter import __version__
from exporter.config import load, options
from tests.deploy.wheel import CACHE
from tests.paths import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "inference-exporter"
FULL = CHART / "ci" / "full-values.yaml"
HELM = shutil.which("helm", path=f"{os.environ['PATH']}:{CACHE / 'bin'}")
# The oldest and the newest there are schemas of.
VERSIONS = (all_versions()[0], latest_version())
# What kubectl keeps of an object in an annotation, in bytes.
LONGEST_OBJECT = 262_144

Duration = Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(ms|s|m|h))+$")]
Labels = dict[str, str]


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Only the fields named, as in the operator's API reference (monitoring.coreos.com/v1)."""


class Metadata(Strict):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    labels: Labels
    namespace: str


class Selector(Strict):
    match_labels: Labels


class Relabeling(Strict):
    source_labels: list[str]
    target_label: str | None = None
    regex: str | None = None
    action: Literal["replace", "keep", "drop", "labeldrop", "labelkeep"] = "replace"


class Endpoint(Strict):
    port: str
    path: str
    interval: Duration
    scrape_timeout: Duration
    relabelings: list[Relabeling]
    metric_relabelings: list[Relabeling] = []


class PodMonitorSpec(Strict):
    job_label: str
    selector: Selector
    pod_metrics_endpoints: list[Endpoint]


class ServiceMonitorSpec(Strict):
    job_label: str
    selector: Selector
    endpoints: list[Endpoint]


class Rule(Strict):
    expr: str | int
    alert: str | None = None
    record: str | None = None
    for_: Annotated[Duration | None, msgspec.Meta()] = msgspec.field(default=None, name="for")
    labels: Labels = {}
    annotations: Labels = {}


class Group(Strict):
    name: str
    rules: list[Rule]
    interval: Duration | None = None


class RuleSpec(Strict):
    groups: list[Group]


SPECS = {
    "PodMonitor": PodMonitorSpec,
    "ServiceMonitor": ServiceMonitorSpec,
    "PrometheusRule": RuleSpec,
}


def objects(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def check(each: dict[str, Any]) -> None:
    """Fail where an object is not what Kubernetes, or the operator, takes."""
    if each["apiVersion"] == "monitoring.coreos.com/v1":
        assert set(each) == {"apiVersion", "kind", "metadata", "spec"}
        msgspec.convert(each["metadata"], Metadata)
        msgspec.convert(each["spec"], SPECS[each["kind"]])
        return
    for version in VERSIONS:
        validate(each, version, strict=True)
    # A pod never asks for a GPU: it would take it from the models.
    assert '"nvidia.com/gpu": ' not in json.dumps(containers(each))
    assert len(json.dumps(each)) < LONGEST_OBJECT


def containers(each: dict[str, Any]) -> list[dict[str, Any]]:
    template = each.get("spec", {}).get("template", {})
    found: list[dict[str, Any]] = template.get("spec", {}).get("containers", [])
    return found


def exporters(each: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in containers(each) if one["name"] == "exporter"]


def is_confined_and_takes_its_flags(container: dict[str, Any], directory: Path) -> None:
    """Not root, nothing to write, no privileges; and the daemon knows every flag it is given."""
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    keys = {option.flag: option.key for option in options()}
    given: dict[str, list[str]] = {}
    for argument in container["args"]:
        flag, _, value = argument.partition("=")
        if flag == "--config.file":
            assert (directory / "config.yaml").exists()
            continue
        given.setdefault(keys[flag], []).append(value)
    file = directory / "config.yaml"
    load(str(file) if file.exists() else None, {}, given)


MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_what_kubernetes_takes(path: Path, tmp_path: Path) -> None:
    found = objects(path.read_text())
    assert found
    for each in found:
        check(each)
        for container in exporters(each):
            is_confined_and_takes_its_flags(container, tmp_path)
            assert container["image"].endswith(f":{__version__}")


def test_there_is_a_manifest_of_each_kind() -> None:
    assert {path.stem for path in MANIFESTS} >= {
        *("daemonset", "sidecar", "podmonitor", "servicemonitor", "prometheusrule"),
        "networkpolicy",
    }


def test_a_wrong_object_is_refused() -> None:
    """That the checks above can fail."""
    (monitor,) = objects((KUBERNETES / "podmonitor.yaml").read_text())
    monitor["spec"]["podMetricsEndpoints"][0]["scrapeInterval"] = "15s"
    with pytest.raises(msgspec.ValidationError, match="scrapeInterval"):
        check(monitor)
    daemonset = objects((KUBERNETES / "daemonset.yaml").read_text())[-1]
    (container,) = containers(daemonset)
    container["resources"]["limits"]["nvidia.com/gpu"] = 1
    with pytest.raises(AssertionError):
        check(daemonset)
    del container["resources"]["limits"]["nvidia.com/gpu"]
    container["readynessProbe"] = {}
    with pytest.raises(ValidationError):
        check(daemonset)


def test_what_is_made_of_the_rules_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    said = "is old: run `make rules`"
    assert generate.MANIFEST.read_text() == generate.manifest(), f"{generate.MANIFEST} {said}"
    wanted = generate.copies()
    assert {path.name for path in generate.CHART.glob("*.yml")} == {path.name for path in wanted}
    for path, text in wanted.items():
        assert path.read_text() == text, f"{path} {said}"


def test_the_chart_is_of_this_version_and_its_schema_knows_every_value() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        properties = schema["properties"][name].get("properties")
        if (
            properties is not None
            and schema["properties"][name].get("additionalProperties") is False
        ):
            assert set(value) <= set(properties), name
    for name in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboards", "networkPolicy"):
        assert values[name]["enabled"] is False, f"{name} is off until it is asked for"
    used = "".join(path.read_text() for path in CHART.glob("templates/*"))
    for name in values:
        assert re.search(rf"\.Values\.{name}\b", used), f"no template uses {name}"


def helm(*arguments: str) -> str:
    if HELM is None:
        pytest.skip("no helm; `make helm` installs it, and runs this")
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("values", [None, FULL], ids=["default", "full"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_rendered_chart_is_what_kubernetes_takes(
    values: Path | None, version: str, tmp_path: Path
) -> None:
    more = [f"--values={values}"] if values else []
    helm("lint", "--strict", str(CHART), *more)
    text = helm(
        *("template", "demo", str(CHART), "--namespace=monitoring"),
        *(f"--kube-version={version}", *more),
    )
    found = objects(text)
    for each in found:
        check(each)
    kinds = [each["kind"] for each in found]
    if values is None:
        assert sorted(kinds) == ["DaemonSet", "Service", "ServiceAccount"]
    else:
        assert {"PodMonitor", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"} <= set(kinds)
        dashboards = sorted(path.name for path in (ROOT / "grafana").glob("*.json"))
        shown = [
            next(iter(each["data"]))
            for each in found
            if each["kind"] == "ConfigMap" and "grafana_dashboard" in each["metadata"]["labels"]
        ]
        assert sorted(shown) == dashboards, "one ConfigMap for each"
        for each in found:
            if each["kind"] == "ConfigMap" and "config.yaml" in each["data"]:
                (tmp_path / "config.yaml").write_text(each["data"]["config.yaml"])
            if each["kind"] in SPECS:
                assert each["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (daemonset,) = (each for each in found if each["kind"] == "DaemonSet")
    (container,) = exporters(daemonset)
    is_confined_and_takes_its_flags(container, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    ["port=0", "podMonitor.labels.x=y", "resources.limits.nvidia\\.com/gpu=1", "colour=red"],
)
def test_values_that_make_no_sense_are_refused(wrong: str) -> None:
    if HELM is None:
        pytest.skip("no helm; `make helm` installs it, and runs this")
    done = subprocess.run(
        [HELM, "template", "x", str(CHART), "--kube-version=1.31", "--set", wrong],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "schema" in done.stderr
