"""Models of several servers together, bounded: each server has an equal part of the limit. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exporter.sources.triton.reading import ModelCounts, ModelKey


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Limits of all models of a server together; the models beyond the others keep the rest.

    name_bytes: length of their names and versions. batches: sizes in batch_stats. memory_entries:
    entries of memory_usage.
    """

    models: int
    name_bytes: int = 256 << 10
    batches: int = 16_384
    memory_entries: int = 4096

    def part(self, models: int) -> ModelLimits:
        """Returns the limits for fewer models, all in the same proportion."""
        return ModelLimits(
            models,
            self.name_bytes * models // self.models,
            self.batches * models // self.models,
            self.memory_entries * models // self.models,
        )

    def used(self, models: Mapping[ModelKey, ModelCounts]) -> int:
        """Returns the smallest part, as a number of models, that has room for these."""
        names = sum(len(name) + len(version) for name, version in models)
        batches = sum(len(counts.batches or ()) for counts in models.values())
        memory = sum(len(counts.memory) for counts in models.values())
        shares = (
            (names, self.name_bytes),
            (batches, self.batches),
            (memory, self.memory_entries),
        )
        return max(len(models), *(-(-used * self.models // limit) for used, limit in shares))


class SharedModels:
    """Models by server. Each may use what the others leave, and at least its equal part.

    count: returns the number of servers.
    """

    def __init__(self, limits: ModelLimits, count: Callable[[], int] = lambda: 1) -> None:
        self._limits = limits
        self._count = count
        self._used: dict[str, int] = {}

    def limits_of(self, server: str) -> ModelLimits:
        """Returns the present limits of a server."""
        others = sum(used for name, used in self._used.items() if name != server)
        total = self._limits.models
        return self._limits.part(max(1, total - others, total // max(1, self._count())))

    def set_models(self, server: str, models: Mapping[ModelKey, ModelCounts]) -> None:
        """Replaces the models of a server."""
        self._used[server] = self._limits.used(models)

    def remove(self, server: str) -> None:
        """Removes a server."""
        self._used.pop(server, None)
