"""The promised names: docs/metrics.json, and what changed since a release (docs/stability.md).

    python -m tools.promises > docs/metrics.json    the metrics, settings and commands declared now
    python -m tools.promises --since FILE           what vanished or changed since that file

A change has to be named in the migration notes of CHANGELOG.md: tests/test_promises.py.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args, get_origin

from exporter import reference_builder
from exporter.catalog import catalog
from exporter.cli import COMMANDS, argument_parser
from exporter.config import Option, options
from exporter.dialects import NAMES, active_dialects
from exporter.registry import SOURCES
from exporter.setting_values import split_type
from exporter.settings import Duration

_KINDS = {str: "text", int: "integer", float: "number", bool: "boolean", Duration: "duration"}


@dataclass(frozen=True, slots=True)
class Change:
    """A name that changed. property: "removed", "type", "unit", "labels", "default", "flag", …"""

    name: str
    property: str
    what: str = ""


Promises = Mapping[str, Mapping[str, Any]]
"""By kind (metrics, dialects, settings, commands, flags), then by name: its promised properties."""


def promises() -> Promises:
    """Returns the promised names, as docs/metrics.json has them."""
    entries: dict[str, dict[str, dict[str, Any]]] = {
        "metrics": {
            metric.name: {
                "source": source.name,
                "type": str(metric.type),
                "unit": metric.unit,
                "labels": list(metric.label_names),
                "optional_labels": list(metric.optional_labels),
            }
            for source in SOURCES
            for metric in source.metrics
        },
        "dialects": {
            f"{dialect}:{rule.name}": {"type": str(rule.type)}
            for dialect in NAMES
            for rule in active_dialects((dialect,), catalog()).family_rules
            if not rule.extends
        },
        "settings": {option.key: _setting(option) for option in options()},
        "commands": {name: {} for name in COMMANDS},
        "flags": dict(_other_flags()),
    }
    return {
        kind: {
            name: {key: value for key, value in entry.items() if value}
            for name, entry in named.items()
        }
        for kind, named in entries.items()
    }


def text(current: Promises) -> str:
    """Returns docs/metrics.json: a line for each name, for short differences."""
    kinds = []
    for kind, entries in current.items():
        lines = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()
        )
        kinds.append(f'  "{kind}": {{\n{lines}\n  }}')
    return "{\n" + ",\n".join(kinds) + "\n}\n"


def changes(old: Promises, new: Promises) -> Iterator[Change]:
    """Yields what a user of the old names may notice. What is added is no change, but for labels.

    A further label of a metric breaks sums over all labels and `ignoring()`; that of an info metric
    does not: queries name its labels.
    """
    for kind, entries in old.items():
        for name, before in entries.items():
            after = new[kind].get(name)
            shown = _shown(kind, name, before)
            if after is None:
                yield Change(shown, "removed")
                continue
            for key in (before.keys() | after.keys()) - {"source"}:
                what = _difference(before.get(key), after.get(key), key)
                if what and not (after.get("type") == "info" and what.startswith("new")):
                    yield Change(shown, key.replace("optional_", ""), what)


def unnamed(changed: Iterable[Change], changelog: str, release: str) -> list[Change]:
    """Returns the changes that the migration notes after a release do not name.

    Such a note is a row of a table below a heading that begins with "Migration". Its first cell has
    the name in backquotes, the row the property that changed ("removed", "type", "labels", …). A
    pattern such as `gpu_*` names new labels only.
    """
    rows = list(_migration_rows(changelog, release))
    return [change for change in changed if not any(_names(row, change) for row in rows)]


def undeprecated(
    changed: Iterable[Change], stability: str, release: str, version: str
) -> list[Change]:
    """Returns the removals of names that were not deprecated in two minor versions before.

    The table "Deprecated" of docs/stability.md has the name and the version that deprecated it.
    Another major version may remove any name.
    """
    major, minor, *_ = map(int, version.split("."))
    if int(release.split(".", maxsplit=1)[0]) != major:
        return []
    since = {
        name: tuple(map(int, match[2].split(".")))
        for match in re.finditer(r"^\| ([^|]+) \| (\d+\.\d+\.\d+) \|", stability, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", match[1])
    }
    return [
        change
        for change in changed
        if change.property == "removed"
        and not (change.name in since and since[change.name] <= (major, minor - 2, 0))
    ]


def _migration_rows(changelog: str, release: str) -> Iterator[str]:
    """Yields the rows of tables below headings "### Migration…" above the section of a release."""
    migration = False
    for line in changelog.splitlines():
        if re.match(rf"## {re.escape(release)}\b", line):
            return
        if line.startswith("#"):
            migration = line.startswith("### Migration")
        elif migration and line.startswith("| `"):
            yield line


def _names(row: str, change: Change) -> bool:
    first, rest = row.removeprefix("| ").split(" | ", 1)
    if change.property not in rest:
        return False
    new_labels = change.property == "labels" and change.what.startswith("new")
    return any(
        name == change.name or (new_labels and "_*" in name and fnmatchcase(change.name, name))
        for name in re.findall(r"`([^`]+)`", first)
    )


def _shown(kind: str, name: str, entry: Mapping[str, Any]) -> str:
    if kind == "dialects":
        return name.partition(":")[2]
    if kind == "commands":
        return f"inference-exporter {name}"
    return str(entry.get("flag", name))


def _difference(before: Any, after: Any, key: str) -> str:
    """Returns how a property changed; empty if no user can notice."""
    if isinstance(before, list) or isinstance(after, list):
        removed = [item for item in before or () if item not in (after or ())]
        added = [item for item in after or () if item not in (before or ())]
        if removed:
            return f"without {', '.join(removed)}"
        return f"new {', '.join(added)}" if added and key.endswith("labels") else ""
    return f"{before or 'none'} to {after or 'none'}" if before != after else ""


def _setting(option: Option) -> dict[str, Any]:
    return {
        "flag": option.flag,
        "environment": [option.variable, *option.aliases],
        "type": _type_name(option.type),
        "values": list(option.choices),
        "default": option.default_text,
    }


def _other_flags() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the flags that are no settings, such as --config.file, and those of `reference`."""
    settings = {option.key: option for option in options()}
    for command, parser in (
        ("", argument_parser(settings)),
        ("reference ", reference_builder.argument_parser()),
    ):
        for flag, value in re.findall(
            r"^  (?:-h, )?(--[\w.-]+)( \S+)?", parser.format_help(), re.MULTILINE
        ):
            if flag not in {option.flag for option in settings.values()}:
                yield f"{command}{flag}", {"type": "text" if value else "boolean"}


def _type_name(declared: Any) -> str:
    """Returns the type of a setting in words, such as `list of text`."""
    base, _ = split_type(declared)
    if get_origin(base) is tuple:
        return f"list of {_type_name(get_args(base)[0])}"
    if get_origin(base) is dict:
        return "mapping"
    return _KINDS.get(base, "text")  # a Literal: one of `values`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--since", type=Path, metavar="FILE", help="docs/releases/VERSION.json")
    since = parser.parse_args().since
    if since is None:
        sys.stdout.write(text(promises()))
        return
    for change in changes(json.loads(since.read_text()), promises()):
        print(f"{change.name}: {change.property} {change.what}".rstrip())  # noqa: T201 - the output


if __name__ == "__main__":
    main()
