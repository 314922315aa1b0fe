"""The pods that have a GPU alone: set by the joins, and read when the dialect dcgm is rendered."""

from __future__ import annotations

from collections.abc import Mapping

GpuInstance = tuple[str, str]
"""The UUID of a GPU, and the ID of a MIG GPU instance of it; empty for the whole GPU."""
WHOLE_GPU = ""

PodLabels = tuple[tuple[str, str], ...]
"""Labels of a pod, as dcgm-exporter adds them: (name, value)."""


class GpuPods:
    """The labels of the pod that has a GPU, or a GPU instance, alone.

    `labels` is replaced as a whole, by another object, when it changes: another thread reads it.
    """

    def __init__(self) -> None:
        self.labels: Mapping[GpuInstance, PodLabels] = {}

    def update(self, labels: Mapping[GpuInstance, PodLabels]) -> None:
        """Replaces the labels, if they differ."""
        if labels != self.labels:
            self.labels = labels
