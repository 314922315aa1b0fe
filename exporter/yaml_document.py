"""Builds the values of a YAML document from the events of PyYAML's parser.

Imported when a file is read: PyYAML takes 2 MB.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import yaml

from exporter.yaml_mapping import Mapping

# Nested collections, and keys that merge keys (`<<`) copy.
_MAX_DEPTH = 100
_MAX_MERGED_KEYS = 100_000

# PyYAML without libyaml refuses tabs that libyaml, and yaml.v2, accept.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


def parse_yaml(text: bytes) -> Any:
    """Returns the value of the document; None for an empty one.

    Raises ValueError, with the problem and its line.
    """
    try:
        return _Composer(text).document()
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        position = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{problem}{position}") from None


class _Composer:
    """Builds the values of a file's document from the parser's events. Raises YAMLError."""

    def __init__(self, text: bytes) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, Any] = {}
        self._merged_keys = 0

    def document(self) -> Any:
        """Returns the document's value; None for an empty file."""
        value: Any = None
        documents = 0
        for event in self._events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            documents += 1
            self._anchors.clear()
            content = self._value(next(self._events), 0)
            if documents == 1:
                value = content
            elif content is not None:
                raise _error("a second document, which Prometheus' exporters ignore", event)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _error("too many nested collections", event)
        if isinstance(event, yaml.AliasEvent):
            return self._anchor(event)
        if (event.tag or "").startswith(f"{_TAG}python/"):
            raise _error("a tag of a Python object", event)
        self._anchors.pop(event.anchor, None)  # an alias inside must not find an earlier one
        if isinstance(event, yaml.ScalarEvent):
            value: Any = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = [self._value(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
        else:
            value = self._mapping(depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value
        return value

    def _anchor(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise _error(f"the anchor {event.anchor!r} is not complete before its alias", event)
        return self._anchors[event.anchor]

    def _until(self, end: type) -> Iterator[Any]:
        """Yields the events up to the end of a collection; the consumer takes those below them."""
        while not isinstance(event := next(self._events), end):
            yield event

    def _mapping(self, depth: int) -> Mapping:
        mapping = Mapping()
        explicit: set[str] = set()
        for key_event in self._until(yaml.MappingEndEvent):
            if _is_merge(key_event):
                event = next(self._events)
                self._merge(mapping, self._value(event, depth + 1), event)
                continue
            key = self._value(key_event, depth + 1)
            if isinstance(key, dict | list):
                raise _error("a key must be a single value", key_event)
            key = key or ""
            if key in explicit:
                raise _error(f"duplicate key {key!r}", key_event)
            explicit.add(key)
            mapping.set(key, self._value(next(self._events), depth + 1))
        return mapping

    def _merge(self, mapping: Mapping, value: Any, event: Any) -> None:
        """Merges one mapping, or a list of them; the first one of the list counts most."""
        merged = value[::-1] if isinstance(value, list) else [value]
        is_alias_of_list = isinstance(value, list) and isinstance(event, yaml.AliasEvent)
        if is_alias_of_list or not all(isinstance(other, Mapping) for other in merged):
            raise _error("a merge key (<<) needs a mapping, or a list of mappings", event)
        for other in merged:
            for key in other:
                self._merged_keys += 1 + _size(other[key]) + _size(mapping.get(key))
                if self._merged_keys > _MAX_MERGED_KEYS:
                    raise _error("the merge keys (<<) copy too much", event)
                mapping.set(key, other[key])


def _size(value: object) -> int:
    return len(value) if isinstance(value, Mapping) else 0


def _is_merge(event: Any) -> bool:
    if not isinstance(event, yaml.ScalarEvent) or event.value != "<<":
        return False
    return bool(event.tag == f"{_TAG}merge" or (event.implicit[0] and event.tag is None))


def _scalar(event: Any) -> str | None:
    text: str = event.value
    plain = event.tag is None and event.implicit[0]
    if (plain or event.tag == f"{_TAG}null") and text in _NULLS:
        return None
    if event.tag == f"{_TAG}null":
        raise _error(f"{text!r} is not null", event)
    if event.tag == f"{_TAG}binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except ValueError:
            raise _error("a !!binary value is not base64 of UTF-8 text", event) from None
    return text


def _error(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
