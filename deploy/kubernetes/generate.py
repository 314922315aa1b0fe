"""Generates Kubernetes' copies of the project's rules: `make rules` runs it.

prometheus/rules/*.yml → deploy/kubernetes/prometheusrule.yaml, and copies in the Helm chart, which
cannot read files outside of its own folder. A test fails if they are out of date.
"""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "prometheus" / "rules"
MANIFEST = ROOT / "deploy" / "kubernetes" / "prometheusrule.yaml"
CHART = ROOT / "deploy" / "helm" / "inference-exporter" / "rules"

_HEAD = """\
# Written by deploy/kubernetes/generate.py from prometheus/rules: do not edit.
# The labels must be those your Prometheus selects rules by.
"""


def rules() -> dict[str, str]:
    """Returns the texts of the rule files (files with `groups`) by file name."""
    texts = {path.name: path.read_text() for path in sorted(SOURCES.glob("*.y*ml"))}
    return {name: text for name, text in texts.items() if "groups" in yaml.safe_load(text)}


def manifest() -> str:
    """Returns all groups as a PrometheusRule of the Prometheus operator, in YAML."""
    groups = [group for text in rules().values() for group in yaml.safe_load(text)["groups"]]
    return _HEAD + yaml.safe_dump(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": "inference-exporter",
                "namespace": "inference-exporter",
                "labels": {"release": "kube-prometheus-stack"},
            },
            "spec": {"groups": groups},
        },
        sort_keys=False,
        width=100,
        allow_unicode=True,
    )


def copies() -> dict[Path, str]:
    """Returns the chart's copies by path. The chart's template reads rules/*.yml."""
    return {CHART / f"{Path(name).stem}.yml": text for name, text in rules().items()}


def main() -> None:
    MANIFEST.write_text(manifest())
    CHART.mkdir(exist_ok=True)
    wanted = copies()
    for old in CHART.glob("*.yml"):
        if old not in wanted:
            old.unlink()
    for path, text in wanted.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
