"""The daemon beside a kubelet: pods on its page, and the kubelet's failure is its own."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import QUICK, off, running
from tests.fakes.kubelet import Kubelet, container, kubelet_at, pod
from tests.waiting import until


def test_kubelet_up(tmp_path: Path) -> None:
    socket = tmp_path / "kubelet.sock"
    kubelet = Kubelet()
    kubelet.pods = [pod("train", "llm-0", container("main", gpus=["GPU-1::0"]))]
    (tmp_path / "token").write_text("x")
    flags = (
        *QUICK,
        *off("triton", "gpu", "containers"),
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
