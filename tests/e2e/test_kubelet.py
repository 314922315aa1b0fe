"""The daemon beside a kubelet: pods on its page and in Prometheus; the kubelet's own failures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.daemon import PATIENT, QUICK, off, running
from tests.fakes.kubelet import Kubelet, container, kubelet_at, pod
from tests.fakes.nvml.cards import uuid
from tests.fakes.nvml.standin import Driver
from tests.paths import ROOT
from tests.prometheus import promtool_parse_errors
from tests.prometheus import running as prometheus_running
from tests.waiting import until


def test_kubelet_up(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"
    kubelet = Kubelet()
    kubelet.pods = [pod("train", "llm-0", container("main", gpus=["GPU-1::0"]))]
    (tmp_path / "token").write_text("x")
    flags = (
        *QUICK,
        *off("triton", "gpu", "containers"),
        "--kubelet.interval=500ms",
        f"--kubelet.socket={socket}",
        f"--kubelet.api-token-file={tmp_path / 'token'}",
        "--kubelet.api-url=http://127.0.0.1:9",  # refuses connections
    )
    with running(tmp_path, *flags) as daemon:
        with kubelet_at(socket, kubelet):
            until(lambda: daemon.value("kubelet_up") == 1, "the kubelet", seconds=30)
            labels = {"namespace": "train", "pod": "llm-0", "container": "main"}
            assert daemon.value("kubelet_assigned_devices", **labels) == 1
            until(lambda: daemon.value("kubelet_resource_slices_up") == 0, "the API's failure", 30)
        until(lambda: daemon.value("kubelet_up") == 0, "its end", seconds=30)
        assert daemon.value("inference_exporter_source_up", source="host") == 1


def queries(way: str) -> list[str]:
    """Returns the queries of docs/kubernetes.md of one way, by the heading of their block."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    block = re.search(rf"{way}\n+```promql\n(.*?)```", text, re.DOTALL)
    assert block is not None, way
    return [query for query in block[1].strip().split("\n\n") if query]


@pytest.mark.real
def test_the_labels_of_pods_in_prometheus_both_ways(tmp_path: Path) -> None:
    """One job with honor_labels, one without; both add labels of the exporter's own pod."""
    driver = Driver(tmp_path, gpus=2)
    socket = tmp_path / "kubelet.sock"
    kubelet = Kubelet()
    kubelet.pods = [
        pod("train", "llm-0", container("main", gpus=[f"{uuid(0)}::0"])),
        pod("serve", "chat-0", container("main", gpus=[f"{uuid(1)}::0"])),
        pod("serve", "chat-1", container("main", gpus=[f"{uuid(1)}::1"])),
    ]
    flags = (
        *PATIENT,
        *off("triton", "host", "containers"),
        f"--kubelet.socket={socket}",
        "--dialect=dcgm",
    )
    own = "{namespace: monitoring, pod: inference-exporter-x7k2p, container: exporter}"
    with (
        kubelet_at(socket, kubelet),
        running(tmp_path, *flags, environment=driver.environment()) as daemon,
    ):
        assert promtool_parse_errors(daemon.get("/metrics")[2].decode()) == []
        jobs = "\n".join(
            f"  - {{job_name: {name}, honor_labels: {honor}, static_configs: "
            f"[{{targets: ['127.0.0.1:{daemon.port}'], labels: {own}}}]}}"
            for name, honor in (("honoured", "true"), ("renamed", "false"))
        )
        settings = f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}\n"
        with prometheus_running(tmp_path / "prometheus", settings) as prometheus:
            for job, label in (("honoured", "pod"), ("renamed", "exported_pod")):
                query = f'container_gpu_assigned{{job="{job}"}}'
                prometheus.answer(f"count({query}) == 3", 60)
                pods = {series["metric"][label] for series in prometheus.answer(query)}
                assert pods == {"llm-0", "chat-0", "chat-1"}
                # dcgm's: of the pod that has the GPU alone; of a shared one the exporter's own.
                temperature = f'DCGM_FI_DEV_GPU_TEMP{{job="{job}"}}'
                prometheus.answer(f'{temperature[:-1]},{label}="llm-0"}}')
                by_gpu = {
                    series["metric"]["gpu"]: series["metric"].get(label, "")
                    for series in prometheus.answer(temperature)
                }
                shared = "inference-exporter-x7k2p" if job == "honoured" else ""
                assert by_gpu == {"0": "llm-0", "1": shared}
                # Series without such a label have the exporter's.
                (up,) = prometheus.answer(f'kubelet_up{{job="{job}"}}')
                assert up["metric"]["pod"] == "inference-exporter-x7k2p"
            for job, way in (("honoured", "With honorLabels: true:"), ("renamed", "Without it:")):
                for query in queries(way):
                    selected = query.replace("}", f',job="{job}"}}')
                    prometheus.answer(selected)
                    other = "renamed" if job == "honoured" else "honoured"
                    assert not prometheus.query(query.replace("}", f',job="{other}"}}')), query
