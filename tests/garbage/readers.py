"""All readers of what others write, each with its fixtures; `test_garbage_law.py` checks that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from tests.garbage import (
    cgroups,
    cri,
    engine,
    gpu,
    host,
    kubelet,
    model_server,
    traces,
    triton,
)
from tests.garbage.law import Fixture

# Modules below exporter/ that read a file or decode a reply, and the names of their fixtures.
READERS = {
    "sources.containers.cgroup.child_cgroups": "cgroup",
    "sources.containers.cgroup.open_files": "cgroup",
    "sources.containers.cri.client": "cri: Version",
    "sources.containers.cri.container_list": "cri: List",
    "sources.containers.cri.info": "cri: info",
    "sources.containers.engine.container_list": "engine: list",
    "sources.containers.engine.disk_usage": "engine: disk usage",
    "sources.containers.engine.json_reply": "engine",
    "sources.containers.engine.list_reply": "engine: list",
    "sources.containers.engine.sdk_client": "engine: version",
    "sources.containers.engine.stats": "engine: stats",
    "sources.gpu.nvml.field_group": "gpu: card",
    "sources.gpu.nvml.gpm": "gpu: card",
    "sources.gpu.nvml.identity": "gpu: card",
    "sources.gpu.nvml.library": "gpu: card",
    "sources.gpu.nvml.mig": "gpu: card",
    "sources.gpu.nvml.poll_calls": "gpu: card",
    "sources.gpu.nvml.processes": "gpu: card",
    "sources.gpu.nvml.query": "gpu: card",
    "sources.gpu.nvml.samples": "gpu: card",
    "sources.gpu.nvml.structs": "gpu: card",
    "sources.gpu.nvml.unified_memory": "gpu: meminfo",
    "sources.gpu.process_containers": "gpu: stat",
    "sources.gpu.runtime_pm": "gpu: runtime_status",
    "sources.host.filesystems": "host: 1/mountinfo",
    "sources.host.kernel": "host: stat",
    "sources.kubelet.decoding": "kubelet: list",
    "sources.kubelet.resource_slices": "kubelet: slices",
    "sources.triton.decoding": "triton",
    "sources.triton.json_pieces": "triton",
    "sources.triton.listeners": "triton: net/tcp",
    "sources.triton.net_tcp": "triton: net/tcp",
    "traces.otlp_json": "traces: spans",
    "traces.triton_setting": "traces: settings",
}
# Those without a fixture, and the reason.
EXEMPT = {
    "sources.containers.cgroup.remedies": "only a remedy depends on it (test_remedies.py)",
    "sources.containers.cgroup.top_cgroups": "files.py's parsers, by file (test_top_cgroups.py)",
    "sources.containers.cri.events": "a strange event causes a list (cri/test_runtime.py)",
    "sources.containers.engine.events": "a strange event causes a list (test_discovery.py)",
    "sources.gpu.device": "no format of its own: the mode of MIG",
    "sources.gpu.nvml.events": "the driver's structure, of which any number is an XID",
    "sources.gpu.nvml.memory_limits": "two numbers with a bound (test_memory_limits.py)",
    "sources.gpu.kernel_log": "strange records are those of others (test_kernel_log.py)",
    "sources.gpu.pci_devices": "strange devices are no GPUs (test_pci_devices.py)",
    "sources.gpu.nvml.loader": "/proc/self/maps of this process, for one path",
    "sources.gpu.simulation.processes": "names of processes, compared as they are",
    "sources.gpu.simulation.card_values": "a file of the project",
    "sources.predictions.reference_file": "right or wrong as a whole (test_references.py)",
    "sources.gpu.tegra": "only a remedy depends on it (test_remedies.py)",
    "sources.kubelet.source": "requests only: decoding.py decodes",
    "sources.triton.client": "requests only: decoding.py decodes",
    "traces.listening": "opens the listener, reads nothing",
    "sources.host.mounts": "mountinfo of this process, for one number",
}


def fixtures(folder: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Fixture]:
    """Yields the fixtures of all readers. folder: an empty one. loop: for asynchronous readers."""
    yield from host.fixtures(folder)
    yield from cgroups.fixtures(folder)
    yield from engine.fixtures()
    yield from kubelet.fixtures()
    yield from cri.fixtures()
    yield from triton.fixtures(loop)
    yield from triton.listener_fixtures(folder / "listeners")
    yield from model_server.fixtures()
    yield from traces.fixtures()
    yield from gpu.fixtures(folder)
