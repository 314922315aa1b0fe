"""Which containers are shown: filters by name, image and label, and a ceiling. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.sources.containers.engine.api_types import Listed
from exporter.sources.containers.settings import Settings


@dataclass(frozen=True, slots=True)
class FilteredContainers:
    """The containers to show, by ID, and how many are not, by why."""

    listed: dict[str, Listed]
    filtered: int
    beyond: int


class ContainerFilters:
    """The filters of the settings. An expression must match the whole name, image, or label.

    A label is matched as `name=value`. What is excluded stays out, whatever includes it.
    """

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_containers
        self._name = _IncludeExclude(settings.name_include, settings.name_exclude)
        self._image = _IncludeExclude(settings.image_include, settings.image_exclude)
        self._label = _IncludeExclude(settings.label_include, settings.label_exclude)

    def admits(self, name: str, image: str | None, labels: Mapping[str, str]) -> bool:
        """Whether the filters let a container through. image: None where it is not known yet."""
        return (
            self._name.admits((name,))
            and (image is None or self._image.admits((image,)))
            and self._label.admits(f"{key}={value}" for key, value in labels.items())
        )

    def choose(self, listed: Mapping[str, Listed], images: Mapping[str, str]) -> FilteredContainers:
        """Apply filters, then the ceiling: the running before the stopped, the newest first.

        images: of those already inspected, as the user named them.
        """
        admitted = [
            one
            for one in listed.values()
            if self.admits(one.name, images.get(one.id), one.labels or {})
        ]
        kept = admitted
        if len(admitted) > self._most:
            ranked = sorted(admitted, key=lambda one: (one.state in _STOPPED, -one.created))
            kept = ranked[: self._most]
        return FilteredContainers(
            {one.id: one for one in kept}, len(listed) - len(admitted), len(admitted) - len(kept)
        )


_STOPPED = ("created", "exited", "dead", "removing")


class _IncludeExclude:
    def __init__(self, include: str, exclude: str) -> None:
        self._include = re.compile(include) if include else None
        self._exclude = re.compile(exclude) if exclude else None

    def admits(self, texts: Iterable[str]) -> bool:
        texts = tuple(texts)
        if self._exclude is not None and any(map(self._exclude.fullmatch, texts)):
            return False
        return self._include is None or any(map(self._include.fullmatch, texts))
