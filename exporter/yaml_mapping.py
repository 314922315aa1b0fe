"""A mapping of a YAML file, with the keys that a merge key sets, too."""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping
from typing import Any


class Mapping(dict[str, Any]):
    """A mapping of a YAML file.

    overridden: keys that a merge key sets, too. yaml.v2 accepts them in its structs, where the last
    one in the file counts, but not in its maps.
    """

    def __init__(self, other: AnyMapping[str, Any] | None = None) -> None:
        super().__init__(other or {})
        self.overridden: set[str] = set(getattr(other, "overridden", ()))

    def set(self, key: str, value: Any) -> None:
        """Sets a value as yaml.v2 decodes into a struct: a mapping is added to an earlier one."""
        earlier = self.get(key)
        if isinstance(value, Mapping) and isinstance(earlier, Mapping):
            self[key] = joined = Mapping(earlier)
            for inner in value:
                joined.set(inner, value[inner])
            return
        if key in self:
            self.overridden.add(key)
        self[key] = value
