"""The dialect dcgm compared with the page of dcgm-exporter 3.3.9 on an H100, and its two ages.

The stand-in answers as that H100 did (without NVLinks, vGPU or XIDs).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from exporter.catalog import catalog
from exporter.dialects import DialectOptions, active_dialects, dcgm
from exporter.dialects.dcgm import SumOfRates
from exporter.dialects.dcgm_fields import DCGM_FIELDS
from exporter.dialects.dcgm_xids import message
from tests.daemon import Samples, find, parse
from tests.fakes.nvml import cards
from tests.sources.gpu.captured import captured_page

CARD = "h100vm_load"
# dcgm-exporter's labels, in its order; XID_ERRORS has two more.
LABELS = ["gpu", "UUID", "pci_bus_id", "device", "modelName"]
OLD_LABELS = [*LABELS, "Hostname", "DCGM_FI_DRIVER_VERSION"]
NEW_LABELS = [*LABELS, "hostname", "DCGM_FI_SYSTEM_DRIVER_VERSION"]
XID_LABELS = ["err_code", "err_msg"]
# 3.3.9 declares these rates counters; since 4.x its lists have the type gauge.
GAUGES = {"DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES"}


def page(folder: Path, *ages: str, card: str = CARD, host_label: str = "auto") -> str:
    options = DialectOptions(
        host="host-1", dcgm_host_label=host_label, dcgm_versions=ages or dcgm.BOTH
    )
    return captured_page(card, folder, active_dialects(["dcgm"], catalog(), options))[0]


def lines(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"{name}{{")]


def label_names(line: str) -> list[str]:
    return re.findall(r"(\w+)=\"", line)


def test_families_labels_order_types_and_zeros_are_those_of_the_real_page(tmp_path: Path) -> None:
    text = page(tmp_path, "4.8")
    with (Path(__file__).parent / "dcgm_page.csv").open() as stream:
        real = list(csv.DictReader(stream))
    types = dict(re.findall(r"^# TYPE (DCGM\w+) (\w+)$", text, re.MULTILINE))
    names = [row["name"] for row in real]
    assert [name for name in types if name in names] == names, "in this order"
    for row in real:
        name = row["name"]
        expected = "gauge" if name in GAUGES else row["type"]
        assert types[name] == expected, name
        (line,) = lines(text, name)
        xid = XID_LABELS if name == "DCGM_FI_DEV_XID_ERRORS" else []
        assert label_names(line) == OLD_LABELS + xid, name
        value = float(line.rpartition(" ")[2])
        assert (value == 0) is (row["zero"] == "yes"), line
    (xid_line,) = lines(text, "DCGM_FI_DEV_XID_ERRORS")
    assert 'err_code="0",err_msg="No Error"} 0' in xid_line


# (name up to 4.8, name since 4.9, old value / new value).
RENAMED = [
    ("DEV_SM_CLOCK", "DEV_SM_CLOCK_HERTZ", 1e-6),
    ("DEV_MEM_CLOCK", "DEV_MEMORY_CLOCK_HERTZ", 1e-6),
    ("DEV_GPU_TEMP", "DEV_GPU_TEMP_CELSIUS", 1),
    ("DEV_MEMORY_TEMP", "DEV_MEMORY_TEMP_CELSIUS", 1),
    ("DEV_POWER_USAGE", "DEV_BOARD_POWER_WATTS", 1),
    ("DEV_TOTAL_ENERGY_CONSUMPTION", "DEV_GPU_ENERGY_JOULES_TOTAL", 1000),
    ("DEV_GPU_UTIL", "DEV_GPU_UTIL_RATIO", 100),
    ("DEV_MEM_COPY_UTIL", "DEV_MEMORY_UTIL_RATIO", 100),
    ("DEV_ENC_UTIL", "DEV_ENC_UTIL_RATIO", 100),
    ("DEV_DEC_UTIL", "DEV_DEC_UTIL_RATIO", 100),
    ("DEV_FB_FREE", "DEV_FB_FREE_BYTES", 2**-20),
    ("DEV_FB_USED", "DEV_FB_USED_BYTES", 2**-20),
    ("DEV_FB_RESERVED", "DEV_FB_RESERVED_BYTES", 2**-20),
    ("DEV_FB_TOTAL", "DEV_FB_CAPACITY_BYTES", 2**-20),
    ("DEV_PCIE_REPLAY_COUNTER", "DEV_PCIE_REPLAY_TOTAL", 1),
    ("DEV_XID_ERRORS", "DEV_XID_ERROR", 1),
    ("DEV_UNCORRECTABLE_REMAPPED_ROWS", "DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", 1),
    ("DEV_CORRECTABLE_REMAPPED_ROWS", "DEV_ROW_REMAP_CORRECTABLE_TOTAL", 1),
    ("DEV_ROW_REMAP_FAILURE", "DEV_ROW_REMAP_FAILED", 1),
    ("DEV_NVLINK_BANDWIDTH_TOTAL", "DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND", 1 / 1_024_000),
    ("PROF_GR_ENGINE_ACTIVE", "PROF_GR_ENGINE_UTIL_RATIO", 1),
    ("PROF_PIPE_TENSOR_ACTIVE", "PROF_TENSOR_UTIL_RATIO", 1),
    ("PROF_DRAM_ACTIVE", "PROF_DRAM_UTIL_RATIO", 1),
    ("PROF_SM_ACTIVE", "PROF_SM_UTIL_RATIO", 1),
    ("PROF_SM_OCCUPANCY", "PROF_SM_OCCUPANCY_RATIO", 1),
    ("PROF_PIPE_FP64_ACTIVE", "PROF_FP64_UTIL_RATIO", 1),
    ("PROF_PIPE_FP32_ACTIVE", "PROF_FP32_UTIL_RATIO", 1),
    ("PROF_PIPE_FP16_ACTIVE", "PROF_FP16_UTIL_RATIO", 1),
    ("DEV_POWER_VIOLATION", "DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", 1e9),
    ("DEV_THERMAL_VIOLATION", "DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL", 1e9),
]


def test_the_names_of_both_ages_have_the_same_values_in_their_units(tmp_path: Path) -> None:
    text = page(tmp_path)
    for old, new, factor in RENAMED:
        (old_line,), (new_line,) = lines(text, f"DCGM_FI_{old}"), lines(text, f"DCGM_FI_{new}")
        values = [float(line.rpartition(" ")[2]) for line in (old_line, new_line)]
        assert values[0] == pytest.approx(values[1] * factor), (old, new)
        xid = XID_LABELS if "XID" in old else []
        assert label_names(old_line) == OLD_LABELS + xid
        assert label_names(new_line) == NEW_LABELS + xid
    (unchanged,) = lines(text, "DCGM_FI_PROF_PCIE_TX_BYTES")
    assert label_names(unchanged) == [
        *LABELS,
        "Hostname",
        "hostname",
        "DCGM_FI_DRIVER_VERSION",
        "DCGM_FI_SYSTEM_DRIVER_VERSION",
    ]


def test_one_age_alone(tmp_path: Path) -> None:
    old_names = {field.name for field in DCGM_FIELDS if field.renamed}
    new_names = {field.renamed for field in DCGM_FIELDS if field.renamed}
    for age, present, absent in (("4.8", old_names, new_names), ("4.9", new_names, old_names)):
        folder = tmp_path / age
        folder.mkdir()
        text = page(folder, age)
        names = set(re.findall(r"^# TYPE (DCGM\w+) ", text, re.MULTILINE))
        assert names & present
        assert not names & absent
        (unchanged,) = lines(text, "DCGM_FI_DEV_VGPU_LICENSE_STATUS")
        assert label_names(unchanged) == (OLD_LABELS if age == "4.8" else NEW_LABELS)


@pytest.mark.parametrize("label", ["Hostname", "hostname", ""])
def test_the_label_of_the_host_as_set(label: str) -> None:
    labels = {"gpu": "0", "uuid": "GPU-0"}
    for rule in dcgm.families(label, "host-1"):
        if rule.name in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS"):
            pairs = rule.map_labels(labels, {"name": "H100", "pci_bus_id": "0:1"})
            assert pairs is not None
            hosts = {name: value for name, value in pairs if name.lower() == "hostname"}
            assert hosts == ({label: "host-1"} if label else {})


def last_xids(*timestamps: tuple[str, str, float]) -> dict[str, tuple[str, str, int]]:
    """Returns err_code, err_msg and value by GPU, for two GPUs with these (gpu, XID, time)."""
    rule = next(r for r in dcgm.families("", "") if r.name == "DCGM_FI_DEV_XID_ERRORS")
    assert rule.gather is not None

    def mapped(gpu: str, xid: str) -> dict[str, str]:
        pairs = rule.map_labels({"gpu": gpu, "uuid": f"GPU-{gpu}", "xid": xid}, {})
        assert pairs is not None
        return dict(pairs)

    watched = [(mapped(gpu, xid), 0) for gpu in "01" for xid in ("48", "79")]
    seen = [(mapped(gpu, xid), at) for gpu, xid, at in timestamps]
    return {
        (labels := dict(pairs))["gpu"]: (labels["err_code"], labels["err_msg"], value)
        for pairs, value in rule.gather()(watched, seen)
    }


def test_the_last_xid_has_its_message_and_the_other_gpu_has_none() -> None:
    assert last_xids() == {"0": ("0", "No Error", 0), "1": ("0", "No Error", 0)}
    assert last_xids(("1", "79", 5.0), ("1", "31", 7.0), ("1", "48", 6.0)) == {
        "0": ("0", "No Error", 0),
        "1": ("31", "GPU memory page fault", 31),
    }
    assert last_xids(("0", "9999", 1.0))["0"] == ("9999", "Unknown Error", 9999)
    assert message(79) == "GPU has fallen off the bus"


def test_the_nvlink_rate_is_that_of_both_directions() -> None:
    times = iter((10.0, 12.0, 14.0, 16.0, 18.0))
    rates = SumOfRates(1 / 1_024_000, lambda: next(times))

    def rate(transmitted: float, received: float, pod: str = "a") -> list[float]:
        gpu = {"gpu": "0", "UUID": "GPU-0", "pod": pod}
        rated = list(rates.gather([(gpu, transmitted)], [(gpu, received)]))
        assert [labels for labels, _ in rated] == [tuple(gpu.items())] * len(rated)
        return [value for _, value in rated]

    assert rate(1000, 500) == [], "needs two readings"
    assert rate(1000 + 1_024_000, 500 + 3_072_000) == [pytest.approx(2.0)]
    assert rate(0, 0) == [], "after a reset"
    assert rate(2_048_000, 0) == [pytest.approx(1.0)]
    assert rate(2_048_000, 6_144_000, pod="b") == [pytest.approx(3.0)], "the GPU is another pod's"


def values(samples: Samples, name: str) -> list[float]:
    return [value for (sample, _), value in samples.items() if sample == name]


def test_zeros_never_stand_beside_values_of_a_card_that_has_the_feature(tmp_path: Path) -> None:
    samples = parse(page(tmp_path, "4.8", card="h200_load"))
    assert find(samples, "gpu_nvlinks") == 18
    assert len(values(samples, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL_total")) <= 1
    assert values(samples, "DCGM_FI_DEV_VGPU_LICENSE_STATUS") == [0]


POD: tuple[tuple[str, str], ...] = (
    ("container", "main"),
    ("namespace", "train"),
    ("pod", "llm-0"),
    ("pod_uid", "u-1"),
)


def pod_page(folder: Path, pods: dcgm.PodTable, *, uid: bool, card: str) -> str:
    folder.mkdir()
    table = dcgm.PodLabelTable(lambda: pods, uid=uid)
    options = DialectOptions(host="host-1", dcgm_versions=("4.8",), dcgm_pods=table)
    return captured_page(card, folder, active_dialects(["dcgm"], catalog(), options))[0]


@pytest.mark.parametrize("uid", [False, True])
def test_the_pod_that_has_the_gpu_alone(tmp_path: Path, uid: bool) -> None:
    text = pod_page(tmp_path / "1", {(cards.uuid(0), ""): POD}, uid=uid, card=CARD)
    added = ["container", "namespace", "pod", *(["pod_uid"] if uid else [])]
    for name in ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_FB_USED", "DCGM_FI_PROF_DRAM_ACTIVE"):
        (line,) = lines(text, name)
        assert label_names(line) == OLD_LABELS + added
        assert 'container="main",namespace="train",pod="llm-0"' in line
        assert ('pod_uid="u-1"' in line) is uid
    (xid,) = lines(text, "DCGM_FI_DEV_XID_ERRORS")
    assert label_names(xid) == OLD_LABELS + added + XID_LABELS
    # The native series of the GPU have no pod.
    assert not [line for line in text.splitlines() if line.startswith("gpu_") and 'pod="' in line]
    other = pod_page(tmp_path / "2", {("GPU-other", ""): POD}, uid=uid, card=CARD)
    assert "llm-0" not in other


def test_the_pod_that_has_a_gpu_instance_alone(tmp_path: Path) -> None:
    pods: dcgm.PodTable = {(cards.uuid(0), "2"): POD}
    text = pod_page(tmp_path / "1", pods, uid=False, card="h100_mig_load")
    by_instance = {
        re.findall(r'GPU_I_ID="(\d+)"', line)[0]: 'pod="llm-0"' in line
        for line in lines(text, "DCGM_FI_DEV_FB_USED")
    }
    assert by_instance == {"1": False, "2": True}
    (whole,) = lines(text, "DCGM_FI_DEV_GPU_TEMP")
    assert "pod=" not in whole


def test_the_table_of_pods_is_the_same_object_while_unchanged() -> None:
    pods: dcgm.PodTable = {("GPU-0", ""): POD}
    table = dcgm.PodLabelTable(lambda: pods, uid=False)
    first = table()
    assert table() is first
    assert first == {("GPU-0", ""): POD[:3]}
    pods = {("GPU-1", ""): POD}
    assert table() == {("GPU-1", ""): POD[:3]}
