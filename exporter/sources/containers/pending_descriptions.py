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

    failed: their last call failed; the number of that failure by ID. changed: due even if the list
    shows no change.
    """

    failed: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    _failures: int = 0

    def __bool__(self) -> bool:
        return bool(self.failed or self.changed)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self.failed or container_id in self.changed

    def order(self, container_id: str) -> int:
        """Returns a number for the order in which due containers are described.

        One that failed comes last, so that it does not block the others; of several, the one whose
        last failure is the oldest comes first.
        """
        return self.failed.get(container_id, 0)

    def keep_only(self, listed: Collection[str]) -> None:
        """Drops the containers that are no longer listed."""
        self.failed = {id_: number for id_, number in self.failed.items() if id_ in listed}
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
                self._add_failure(container_id)
                problems.append(problem)
                continue
            except SourceError as problem:
                # The call fails or hangs for this container, or the engine is slow or gone, which
                # the next call will show: the known descriptions stay.
                self._add_failure(container_id)
                problems.append(problem)
                return False
            self.failed.pop(container_id, None)
            self.changed.discard(container_id)
        return True

    def _add_failure(self, container_id: str) -> None:
        self._failures += 1
        self.failed[container_id] = self._failures
