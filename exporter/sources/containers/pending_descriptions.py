"""The containers to inspect again, or whose status to request again, for every kind of engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from exporter.errors import BadData, NotFound, SourceError
from exporter.sources.containers.problems import Problems


@dataclass(slots=True)
class PendingDescriptions:
    """IDs of the containers to describe again.

    failed: their last call failed. changed: due even if the list shows no change.
    """

    failed: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.failed or self.changed)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self.failed or container_id in self.changed

    def keep_only(self, listed: Collection[str]) -> None:
        """Drops the containers that are no longer listed."""
        self.failed.intersection_update(listed)
        self.changed.intersection_update(listed)

    def describe(
        self,
        due: Iterable[str],
        listed: dict[str, Any],
        describe: Callable[[str], None],
        problems: Problems,
    ) -> bool:
        """Describes the containers that are due, until a call fails; returns whether none did.

        listed: by ID; a container that is removed meanwhile is removed here. describe: requests and
        keeps a description. Raises SourceError.
        """
        for container_id in due:
            try:
                describe(container_id)
            except NotFound:  # removed after the list
                del listed[container_id]
            except BadData as problem:
                self.failed.add(container_id)
                problems.append(problem)
                continue
            except SourceError as problem:
                # The call fails or hangs for this container, or the engine is slow or gone, which
                # the next call will show: the known descriptions stay.
                self.failed.add(container_id)
                problems.append(problem)
                return False
            self.failed.discard(container_id)
            self.changed.discard(container_id)
        return True
