"""Where settings are written: a YAML file, the environment. What they mean is config.py's work."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from exporter.errors import ConfigError

ENVIRONMENT = "INFERENCE_EXPORTER_"
# A longer file is not read: it is no file of settings.
LONGEST_FILE = 1 << 20

# What Kubernetes puts into the environment of every pod beside a Service of our name.
_SERVICE_LINK = re.compile(
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: where it is written, and what may be written there."""

    section: str
    name: str
    type: Any
    default: Any
    description: str
    aliases: tuple[str, ...]
    """Other environment variables it is taken from, after its own."""
    known_flag: str = ""
    """The flag other exporters have for it, where that is written otherwise."""

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        return self.known_flag or f"--{self.section}.{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT}{self.section}_{self.name}".upper()

    @property
    def shown_default(self) -> str:
        """The default as a user would write it."""
        if self.default is None or self.default in ("", ()):
            return "none"
        return ",".join(self.default) if self.repeatable else str(self.default).lower()

    @property
    def repeatable(self) -> bool:
        return get_origin(_bare(self.type)) is tuple

    @property
    def boolean(self) -> bool:
        return _bare(self.type) is bool

    @property
    def choices(self) -> tuple[str, ...]:
        bare = _bare(self.type)
        if get_origin(bare) is tuple:
            bare = get_args(bare)[0]
        return get_args(bare) if get_origin(bare) is Literal else ()

    def split(self, texts: Iterable[str]) -> list[str]:
        """The elements of a list given as flags: one each, of words also several with commas."""
        if not self.choices:
            return list(texts)
        return [part.strip() for text in texts for part in text.split(",")]


def _bare(type_: Any) -> Any:
    return get_args(type_)[0] if get_origin(type_) is Annotated else type_


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was written, and where. text: written as text, so "5" may be a number."""

    value: Any
    origin: str
    text: bool


def from_environment(
    environment: Mapping[str, str], known: Mapping[str, Option]
) -> Iterator[tuple[str, Given]]:
    variables = {name for option in known.values() for name in (option.variable, *option.aliases)}
    for name in environment:
        rest = name.removeprefix(ENVIRONMENT)
        if rest == name or name in variables or rest == "CONFIG_FILE":
            continue
        if not _SERVICE_LINK.match(rest):
            raise ConfigError("environment", name, "unknown setting")
    for option in known.values():
        for name in (option.variable, *option.aliases):
            if environment.get(name):
                text = environment[name]
                value: Any = text
                if option.repeatable:
                    value = [part.strip() for part in text.split(",")]
                elif name in option.aliases and option.boolean:
                    value = True  # as Docker's tools have it: set to anything at all
                yield option.key, Given(value, f"environment {name}", text=True)
                break


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, of which PyYAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def from_file(file: str, known: Mapping[str, Option]) -> Iterator[tuple[str, Given]]:
    """The settings in a YAML file. Raises ConfigError."""
    document = read_yaml(file)
    if document is None:
        return
    if not isinstance(document, dict):
        raise ConfigError(file, "", "must hold a mapping of sections such as `web:`")
    sections = {option.section for option in known.values()}
    for section, values in document.items():
        if section not in sections:
            raise ConfigError(file, str(section), "unknown section")
        if values is None:
            continue
        if not isinstance(values, dict):
            raise ConfigError(file, section, "must be a mapping of settings")
        for name, value in values.items():
            if f"{section}.{name}" not in known:
                raise ConfigError(file, f"{section}.{name}", "unknown setting")
            yield f"{section}.{name}", Given(value, file, text=False)


def read_yaml(file: str) -> Any:
    """What a YAML file holds. Raises ConfigError."""
    try:
        if not Path(file).is_file() and Path(file).exists() and not Path(file).is_dir():
            raise ConfigError(file, "", "is no regular file")
        with Path(file).open("rb") as stream:
            text = stream.read(LONGEST_FILE + 1)
        if len(text) > LONGEST_FILE:
            raise ConfigError(file, "", f"is longer than {LONGEST_FILE} bytes")
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(file, "", f"is not valid YAML: {problem}{where}") from None
