"""GPUs in sysfs: which devices are GPUs, and whether all of them are visible to this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.settings import Paths
from exporter.sources.gpu.pci_devices import (
    AllGpusVisible,
    bound_gpus,
    missing_gpus,
    pci_address,
)


def device(sysfs: Path, name: str, *, vendor: str = "0x10de", kind: str = "0x030200") -> Path:
    folder = sysfs / "bus/pci/devices" / name
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")
    driver = sysfs / "bus/pci/drivers/nvidia"
    driver.mkdir(parents=True, exist_ok=True)
    (driver / name).symlink_to(folder)
    return folder


def test_only_gpus_are_found(tmp_path: Path) -> None:
    device(tmp_path, "0000:38:00.0")
    device(tmp_path, "0000:39:00.0", kind="0x030000")
    device(tmp_path, "10000:01:00.0")
    device(tmp_path, "0000:40:00.0", kind="0x068000")  # an NVSwitch
    device(tmp_path, "0000:41:00.0", vendor="0x1002")
    device(tmp_path, "0000:38:00.4").joinpath("physfn").symlink_to(tmp_path)  # a vGPU's
    device(tmp_path, "0000:42:00.0").joinpath("class").unlink()
    for name in ("bind", "new_id", "module", "0000:zz:00.0"):
        (tmp_path / "bus/pci/drivers/nvidia" / name).touch()
    assert bound_gpus(str(tmp_path)) == {
        (0, 0x38, 0): "0000:38:00.0",
        (0, 0x39, 0): "0000:39:00.0",
        (0x10000, 1, 0): "10000:01:00.0",
    }
    assert bound_gpus(str(tmp_path / "nowhere")) == {}


def test_missing_are_those_that_are_not_listed() -> None:
    bound = {(0, 1, 0): "0000:01:00.0", (0, 2, 0): "0000:02:00.0"}
    assert missing_gpus(bound, [(0, 1, 0), (0, 9, 0)]) == ("0000:02:00.0",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:3B:00.0", (0, 0x3B, 0)),
        ("0000:3b:1f.0", (0, 0x3B, 31)),
        ("", None),
        ("0000:3b", None),
        ("garbage\n", None),
    ],
)
def test_an_address(text: str, expected: tuple[int, int, int] | None) -> None:
    assert pci_address(text) == expected


@pytest.mark.parametrize(
    ("environment", "parameters", "visible"),
    [
        ({}, "", True),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 'ExcludedGpus: ""\n', True),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, 'ExcludedGpus: ""\n', True),
        ({"NVIDIA_VISIBLE_DEVICES": "0,1"}, "", False),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-1234"}, "", False),
        ({}, 'Foo: 1\nExcludedGpus: "0000:3b:00.0"\n', False),
    ],
)
def test_whether_all_are_visible(
    tmp_path: Path, environment: dict[str, str], parameters: str, visible: bool
) -> None:
    nodes = tmp_path / "dev"
    nodes.mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (nodes / name).touch()
    folder = tmp_path / "driver/nvidia"
    folder.mkdir(parents=True)
    (folder / "params").write_text(parameters)
    all_visible = AllGpusVisible(Paths(procfs=str(tmp_path)), environment, str(nodes))
    assert all_visible(2) is visible
    assert not all_visible(3), "a container with two of three GPUs"
