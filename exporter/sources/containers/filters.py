"""Container filters by name, image and label, and the limit of exported containers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from exporter.patterns import Pattern
from exporter.sources.containers.settings import Settings


class ListedByEngine(Protocol):
    """An element of an engine's list. created: a number that is higher for a newer container."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str] | None: ...
    @property
    def created(self) -> int: ...


T = TypeVar("T", bound=ListedByEngine)


@dataclass(frozen=True, slots=True)
class FilteredContainers(Generic[T]):
    """The containers to export, by ID.

    filtered: containers left out by a filter. over_limit: those left out by `max_containers`.
    """

    summaries: dict[str, T]
    filtered: int
    over_limit: int


class ContainerFilters:
    """The filters of the settings. An expression must match the whole name, image, or label.

    A label is matched as `name=value`. Exclude filters win over include filters.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_containers = settings.max_containers
        self._name = _IncludeExclude(settings.name_include, settings.name_exclude)
        self._image = _IncludeExclude(settings.image_include, settings.image_exclude)
        self._label = _IncludeExclude(settings.label_include, settings.label_exclude)

    def match(self, name: str, image: str | None, labels: Mapping[str, str]) -> bool:
        """Returns whether the filters admit a container. image: None while it is unknown."""
        return (
            self._name.match((name,))
            and (image is None or self._image.match((image,)))
            and self._label.match(f"{key}={value}" for key, value in labels.items())
        )

    def apply(self, summaries: Mapping[str, T], images: Mapping[str, str]) -> FilteredContainers[T]:
        """Applies the filters, then the limit: running before stopped, newest first.

        images: images of inspected containers, as the user named them, by container ID.
        """
        admitted = [
            summary
            for summary in summaries.values()
            if self.match(summary.name, images.get(summary.id), summary.labels or {})
        ]
        kept = admitted
        if len(admitted) > self._max_containers:
            ranked = sorted(
                admitted, key=lambda summary: (summary.state in _STOPPED_STATES, -summary.created)
            )
            kept = ranked[: self._max_containers]
        return FilteredContainers(
            {summary.id: summary for summary in kept},
            len(summaries) - len(admitted),
            len(admitted) - len(kept),
        )


# configured, initialized and stopped (until its cleanup) are Podman's.
_STOPPED_STATES = (
    *("created", "exited", "dead", "removing"),
    *("configured", "initialized", "stopped"),
)


class _IncludeExclude:
    def __init__(self, include: str, exclude: str) -> None:
        self._include = Pattern(include) if include else None
        self._exclude = Pattern(exclude) if exclude else None

    def match(self, texts: Iterable[str]) -> bool:
        texts = tuple(texts)
        if self._exclude is not None and any(map(self._exclude.fullmatch, texts)):
            return False
        return self._include is None or any(map(self._include.fullmatch, texts))
