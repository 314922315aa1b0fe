"""The process metrics, compared with this process' kernel files."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from prometheus_client import REGISTRY, ProcessCollector

from exporter.context import Context
from exporter.model import Reading
from exporter.settings import Paths
from exporter.sources.itself import source as itself
from exporter.sources.itself.metrics import METRICS
from exporter.sources.itself.settings import Settings
from tests.fakes.procfs import make_tree
from tests.sources.samples import samples


def read(procfs: str) -> Reading:
    context = Context(Paths(procfs=procfs), lambda: (), lambda: 0)

    async def use() -> Reading:
        source = itself.build(Settings(), context)
        (target,) = await source.discover()
        assert [target] == list(await source.discover())
        with blockbuster_ctx():
            reading = await target.read()
        await source.close()
        return reading

    return asyncio.run(use())


def process(procfs: str) -> dict[str, float]:
    reading = read(procfs)
    assert reading.problems == ()
    values = samples(METRICS, reading)
    return {name: series[()] for name, series in values.items() if name.startswith("process_")}


def stat() -> list[str]:
    """Returns the fields of /proc/self/stat after the command; utime is the twelfth."""
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()


def test_the_values_are_this_processs_whatever_procfs_is(tmp_path: Path) -> None:
    before = stat()
    values = process(str(make_tree(tmp_path)))
    after = stat()
    tick = os.sysconf("SC_CLK_TCK")
    page = os.sysconf("SC_PAGE_SIZE")
    cpu_before, cpu_after = (int(x[11]) + int(x[12]) for x in (before, after))
    assert (
        cpu_before / tick - 1e-6 <= values["process_cpu_seconds_total"] <= cpu_after / tick + 1e-6
    )
    megabyte = 2**20
    assert abs(values["process_virtual_memory_bytes"] - int(after[20])) < 128 * megabyte
    assert abs(values["process_resident_memory_bytes"] - int(after[21]) * page) < 16 * megabyte
    (btime,) = [x for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime")]
    started = int(btime.split()[1]) + int(after[19]) / tick
    assert values["process_start_time_seconds"] == pytest.approx(started, abs=1.1)
    assert values["process_start_time_seconds"] <= time.time() + 1.1
    assert values["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert {metric.name for metric in METRICS if metric.name.startswith("process_")} == set(values)


def test_open_descriptors_are_counted() -> None:
    before = process("/proc")["process_open_fds"]
    files = [Path("/dev/null").open() for _ in range(20)]  # noqa: SIM115 - closed below
    try:
        assert process("/proc")["process_open_fds"] == before + 20
    finally:
        for file in files:
            file.close()


def test_nothing_is_registered_globally() -> None:
    before = set(REGISTRY._collector_to_names)
    process("/proc")
    assert set(REGISTRY._collector_to_names) == before


@pytest.mark.parametrize(
    ("content", "limits", "kind"),
    [
        (None, "", "not_found"),
        ("7 (x) S 1 2", "Max open files 10 20 files\n", "bad_data"),
        ("7 (x) S" + " x" * 40, "Max open files 10 20 files\n", "bad_data"),
        ("7 (x) S" + " 1" * 40, "Max open files unlimited unlimited files\n", "bad_data"),
        ("7 (x) S" + " 1" * 40, "Max processes 1 1\n", "bad_data"),
    ],
)
def test_a_failure_costs_only_the_process_metrics(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    limits: str,
    kind: str,
) -> None:
    """With the real collector on a fake /proc."""
    if content is not None:
        (tmp_path / "self/fd").mkdir(parents=True)
        (tmp_path / "stat").write_text("btime 100\n")
        (tmp_path / "self/stat").write_text(content)
        (tmp_path / "self/limits").write_text(limits)
    monkeypatch.setattr(
        itself,
        "ProcessCollector",
        lambda registry: ProcessCollector(proc=str(tmp_path), registry=registry),
    )
    reading = read("/proc")
    assert [problem.kind for problem in reading.problems] == [kind]
    values = samples(METRICS, reading)
    assert "inference_exporter_build_info" in values
    assert not {name for name in values if name.startswith("process_")}


def test_close_ends_the_thread() -> None:
    process("/proc")
    for thread in threading.enumerate():
        if thread.name == "itself":
            thread.join(10)
            assert not thread.is_alive()
