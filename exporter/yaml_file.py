"""Reads YAML files as Prometheus and its exporters do, whose library is gopkg.in/yaml.v2.

A scalar is the text that is written (`1001`, `0660`, `on`, `2026-01-02`): its setting decides what
the text means. libyaml parses, and yaml_document.py builds the values from its events; no tag
creates anything else than text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exporter.errors import ConfigError

MAX_FILE_BYTES = 1 << 20


def read_yaml(file: str) -> Any:
    """Returns the content of a YAML file: text, None for a null, lists and Mappings of them.

    Raises ConfigError.
    """
    try:
        if not Path(file).is_file() and Path(file).exists() and not Path(file).is_dir():
            raise ConfigError(file, "", "is not a regular file")
        with Path(file).open("rb") as stream:
            text = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from None
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(file, "", f"is larger than {MAX_FILE_BYTES} bytes")
    from exporter.yaml_document import parse_yaml  # noqa: PLC0415 - PyYAML takes 2 MB, not spent without a file

    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(file, "", f"is not valid YAML: {error}") from None
