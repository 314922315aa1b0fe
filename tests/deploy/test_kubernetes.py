"""The manifests and the chart against Kubernetes' schemas and the operator's API fields."""

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
from kubernetes_validate import ValidationError, latest_version, validate
from kubernetes_validate.utils import all_versions

from exporter import __version__
from exporter.config import load, options
from exporter.sources.containers.settings import CRI_SOCKETS
from tests import yaml_files
from tests.deploy.wheel import CACHE
from tests.paths import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "inference-exporter"
FULL = CHART / "ci" / "full-values.yaml"
HELM = shutil.which("helm", path=f"{os.environ['PATH']}:{CACHE / 'bin'}")
# The oldest and the newest version with a schema.
VERSIONS = (all_versions()[0], latest_version())
# Bytes of an object that kubectl apply can keep in its annotation.
MAX_OBJECT_BYTES = 262_144

Duration = Annotated[str, msgspec.Meta(pattern=r"^([0-9]+(ms|s|m|h))+$")]
Labels = dict[str, str]


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Rejects unknown fields. Fields: the operator's API reference (monitoring.coreos.com/v1)."""


class Metadata(Strict):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    labels: Labels
    namespace: str


class Selector(Strict):
    match_labels: Labels


class Relabeling(Strict):
    source_labels: list[str] = []
    target_label: str | None = None
    regex: str | None = None
    action: Literal["replace", "keep", "drop", "labeldrop", "labelkeep"] = "replace"


class Endpoint(Strict):
    port: str
    path: str
    interval: Duration
    scrape_timeout: Duration
    honor_labels: bool
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


def check(manifest: dict[str, Any]) -> None:
    """Fails if Kubernetes or the operator would reject the object, or it requests a GPU."""
    if manifest["apiVersion"] == "monitoring.coreos.com/v1":
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        msgspec.convert(manifest["metadata"], Metadata)
        msgspec.convert(manifest["spec"], SPECS[manifest["kind"]])
        return
    for version in VERSIONS:
        validate(manifest, version, strict=True)
    # A requested GPU would be withdrawn from the models.
    assert '"nvidia.com/gpu": ' not in json.dumps(containers(manifest))
    assert len(json.dumps(manifest)) < MAX_OBJECT_BYTES


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    template = manifest.get("spec", {}).get("template", {})
    specs: list[dict[str, Any]] = template.get("spec", {}).get("containers", [])
    return specs


def exporters(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for container in containers(manifest) if container["name"] == "exporter"]


def check_exporter(container: dict[str, Any], directory: Path) -> None:
    """Checks that the container is confined and that its flags are valid settings."""
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    mounts = container.get("volumeMounts", ())
    assert all(mount["readOnly"] for mount in mounts), "every mount is read-only"
    keys = {option.flag: option.key for option in options()}
    flags: dict[str, list[str]] = {}
    for argument in container["args"]:
        flag, _, value = argument.partition("=")
        # Kubernetes replaces $(NAME) by a variable of the container.
        for entry in container["env"]:
            value = value.replace(f"$({entry['name']})", "pod-1")
        if flag == "--config.file":
            assert (directory / "config.yaml").exists()
            continue
        flags.setdefault(keys[flag], []).append(value)
    file = directory / "config.yaml"
    load(str(file) if file.exists() else None, {}, flags)


def check_pod(manifest: dict[str, Any]) -> None:
    """Checks the DaemonSet's pod: no privilege, and root only where a socket needs it."""
    pod = manifest["spec"]["template"]["spec"]
    folders = {
        volume["name"]: volume["hostPath"] for volume in pod["volumes"] if "hostPath" in volume
    }
    sockets = {name for name in folders if name not in ("proc", "sys", "docker")}
    for name in sockets:  # a socket is replaced at each start, and a folder may be missing
        assert not folders[name]["path"].endswith(".sock")
        assert folders[name]["type"] == "DirectoryOrCreate"
    user = pod["securityContext"]["runAsUser"]
    assert (user == 0) is bool(sockets)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = exporters(manifest)
    assert not container["securityContext"].get("privileged")
    environment = {entry["name"]: entry for entry in container["env"]}
    for name, path in (
        ("NODE_NAME", "spec.nodeName"),
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
    ):
        assert environment[name]["valueFrom"] == {"fieldRef": {"fieldPath": path}}


MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path, tmp_path: Path) -> None:
    manifests = yaml_files.load_all(path.read_text())
    assert manifests
    for manifest in manifests:
        check(manifest)
        for container in exporters(manifest):
            check_exporter(container, tmp_path)
            assert container["image"].endswith(f":{__version__}")


def test_the_daemonset_reads_the_kubelet_and_the_runtime() -> None:
    (daemonset,) = (
        manifest
        for manifest in yaml_files.load_all((KUBERNETES / "daemonset.yaml").read_text())
        if manifest["kind"] == "DaemonSet"
    )
    check_pod(daemonset)
    pod = daemonset["spec"]["template"]["spec"]
    assert pod["hostPID"] is True
    assert pod["automountServiceAccountToken"] is False, "no access to the API"
    (container,) = exporters(daemonset)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    default = next(option.default for option in options() if option.key == "kubelet.socket")
    assert str(Path(default).parent) in mounted
    assert {str(Path(socket).parent) for socket in CRI_SOCKETS[:2]} <= mounted


@pytest.mark.parametrize("name", ["podmonitor", "servicemonitor"])
def test_monitors_keep_the_labels_of_pods(name: str) -> None:
    monitor = yaml_files.load_all((KUBERNETES / f"{name}.yaml").read_text())[-1]
    spec = monitor["spec"]
    (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
    assert endpoint["honorLabels"] is True


def test_every_kind_has_a_manifest() -> None:
    assert {path.stem for path in MANIFESTS} >= {
        *("daemonset", "sidecar", "podmonitor", "servicemonitor", "prometheusrule"),
        "networkpolicy",
    }


def test_invalid_objects_fail_the_checks() -> None:
    (monitor,) = yaml_files.load_all((KUBERNETES / "podmonitor.yaml").read_text())
    monitor["spec"]["podMetricsEndpoints"][0]["scrapeInterval"] = "15s"
    with pytest.raises(msgspec.ValidationError, match="scrapeInterval"):
        check(monitor)
    daemonset = yaml_files.load_all((KUBERNETES / "daemonset.yaml").read_text())[-1]
    (container,) = containers(daemonset)
    container["resources"]["limits"]["nvidia.com/gpu"] = 1
    with pytest.raises(AssertionError):
        check(daemonset)
    del container["resources"]["limits"]["nvidia.com/gpu"]
    container["readynessProbe"] = {}
    with pytest.raises(ValidationError):
        check(daemonset)


def test_generated_rules_are_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", KUBERNETES / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    hint = "is out of date: run `make rules`"
    assert generate.MANIFEST.read_text() == generate.manifest(), f"{generate.MANIFEST} {hint}"
    copies = generate.copies()
    assert {path.name for path in generate.CHART.glob("*.yml")} == {path.name for path in copies}
    for path, text in copies.items():
        assert path.read_text() == text, f"{path} {hint}"


def test_the_chart_has_this_version_and_a_schema_for_every_value() -> None:
    chart = yaml_files.load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml_files.load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    for name, value in values.items():
        properties = schema["properties"][name].get("properties")
        if (
            properties is not None
            and schema["properties"][name].get("additionalProperties") is False
        ):
            assert set(value) <= set(properties), name
    for name in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboards", "networkPolicy"):
        assert values[name]["enabled"] is False, f"{name} is disabled by default"
    templates = "".join(path.read_text() for path in CHART.glob("templates/*"))
    for name in values:
        assert re.search(rf"\.Values\.{name}\b", templates), f"no template uses {name}"


def helm(*arguments: str) -> str:
    if HELM is None:
        pytest.skip("no helm; `make helm` builds it and runs this test")
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("values", [None, FULL], ids=["default", "full"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_rendered_chart_is_valid(values: Path | None, version: str, tmp_path: Path) -> None:
    flags = [f"--values={values}"] if values else []
    helm("lint", "--strict", str(CHART), *flags)
    text = helm(
        *("template", "demo", str(CHART), "--namespace=monitoring"),
        *(f"--kube-version={version}", *flags),
    )
    manifests = yaml_files.load_all(text)
    for manifest in manifests:
        check(manifest)
    kinds = [manifest["kind"] for manifest in manifests]
    if values is None:
        assert sorted(kinds) == ["DaemonSet", "Service", "ServiceAccount"]
    else:
        assert {"PodMonitor", "ServiceMonitor", "PrometheusRule", "NetworkPolicy"} <= set(kinds)
        dashboards = sorted(path.name for path in (ROOT / "grafana").glob("*.json"))
        config_maps = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
        provisioned = [
            next(iter(config_map["data"]))
            for config_map in config_maps
            if "grafana_dashboard" in config_map["metadata"]["labels"]
        ]
        assert sorted(provisioned) == dashboards, "a ConfigMap per dashboard"
        for config_map in config_maps:
            if "config.yaml" in config_map["data"]:
                (tmp_path / "config.yaml").write_text(config_map["data"]["config.yaml"])
        for manifest in manifests:
            if manifest["kind"] in SPECS:
                assert manifest["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (daemonset,) = (manifest for manifest in manifests if manifest["kind"] == "DaemonSet")
    check_pod(daemonset)
    pod = daemonset["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is (values is not None), "resourceSlices"
    roles = [manifest for manifest in manifests if manifest["kind"] == "ClusterRole"]
    assert [role["rules"] for role in roles] == (
        []
        if values is None
        else [
            [
                {
                    "apiGroups": ["resource.k8s.io"],
                    "resources": ["resourceslices"],
                    "verbs": ["list"],
                }
            ]
        ]
    )
    (container,) = exporters(daemonset)
    check_exporter(container, tmp_path)
    prefix = "/gpu1" if values else ""  # routePrefix
    assert container["livenessProbe"]["httpGet"]["path"] == f"{prefix}/-/healthy"
    assert container["readinessProbe"]["httpGet"]["path"] == f"{prefix}/-/ready"
    assert (f"--web.route-prefix={prefix}" in container["args"]) is bool(prefix)
    for manifest in manifests:
        spec = manifest.get("spec", {})
        for endpoint in (*spec.get("podMetricsEndpoints", ()), *spec.get("endpoints", ())):
            assert endpoint["path"] == f"{prefix}/metrics"
            assert endpoint["honorLabels"] is True


def test_without_sockets_the_exporter_is_no_root() -> None:
    text = helm(
        *("template", "demo", str(CHART), "--kube-version=1.31"),
        *("--set", "kubelet.podResources=", "--set", "cri.socketFolders=null"),
    )
    (daemonset,) = (each for each in yaml_files.load_all(text) if each["kind"] == "DaemonSet")
    check_pod(daemonset)
    security = daemonset["spec"]["template"]["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 65532)


@pytest.mark.parametrize(
    "invalid",
    [
        "port=0",
        "routePrefix=gpu1/",
        "podMonitor.labels.x=y",
        "resources.limits.nvidia\\.com/gpu=1",
        "colour=red",
        "kubelet.podResources=pod-resources",
        "runAsUser=-1",
    ],
)
def test_invalid_values_are_rejected(invalid: str) -> None:
    if HELM is None:
        pytest.skip("no helm; `make helm` builds it and runs this test")
    done = subprocess.run(
        [HELM, "template", "x", str(CHART), "--kube-version=1.31", "--set", invalid],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "schema" in done.stderr
