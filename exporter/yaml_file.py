"""Reads YAML files: the settings file and the web configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from exporter.errors import ConfigError

MAX_FILE_BYTES = 1 << 20


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys, of which PyYAML would use the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key.value!r}", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(file: str) -> Any:
    """Returns the content of a YAML file. Raises ConfigError."""
    try:
        if not Path(file).is_file() and Path(file).exists() and not Path(file).is_dir():
            raise ConfigError(file, "", "is not a regular file")
        with Path(file).open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(file, "", f"is larger than {MAX_FILE_BYTES} bytes")
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        position = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(file, "", f"is not valid YAML: {problem}{position}") from None
