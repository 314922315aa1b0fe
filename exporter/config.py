"""Loads the settings: defaults < YAML file < environment < flags.

The sections' fields are the only declaration of the settings; `options` derives YAML keys,
environment variables and flags from them. Every invalid value is a ConfigError: one line that names
the source of the value and its key.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_origin

import msgspec
from msgspec import Meta

from exporter.control import ControlSettings
from exporter.errors import ConfigError
from exporter.registry import SOURCES
from exporter.setting_values import choices, convert, is_unset, split_type
from exporter.settings import Paths, Section, SourceSettings
from exporter.web.settings import WebSettings
from exporter.yaml_file import read_yaml

ENVIRONMENT = "INFERENCE_EXPORTER_"
"""Prefix of the environment variables."""

# Variables that Kubernetes adds to every pod for a Service named inference-exporter.
_SERVICE_LINK = re.compile(
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)


class PageSettings(Section, frozen=True):
    """The metrics page: dialects and the limit of its series."""

    dialect: Annotated[
        tuple[Literal["dcgm", "cadvisor", "triton"], ...],
        Meta(
            description="also expose the metrics under the names of dcgm-exporter, cAdvisor or "
            "Triton's metrics port",
            extra={"flag": "--dialect"},
        ),
    ] = ()
    dcgm_names: Annotated[
        Literal["4.8", "4.9", "both"],
        Meta(
            description="dcgm's names: those up to dcgm-exporter 4.8, those since 4.9, which "
            "renamed most fields and changed their units, or both side by side"
        ),
    ] = "both"
    dcgm_hostname: Annotated[
        Literal["auto", "Hostname", "hostname", "none"],
        Meta(
            description="dcgm's label of the host's name: Hostname as up to dcgm-exporter 4.8.2, "
            "hostname as since then, auto for Hostname with the names up to 4.8 and hostname with "
            "those since 4.9, or none"
        ),
    ] = "auto"
    dcgm_pod_labels: Annotated[
        Literal["on", "uid", "off"],
        Meta(
            description="dcgm's labels of the pod that has a GPU or MIG device alone: container, "
            "namespace and pod, as dcgm-exporter adds them; uid: also pod_uid; off: none"
        ),
    ] = "on"
    align_polls: Annotated[
        bool,
        Meta(
            description="poll shortly before each scrape of a scraper with a steady interval no "
            "shorter than that of the polls, and at least every 15 s; false: at every interval"
        ),
    ] = True
    max_series: Annotated[
        int,
        Meta(
            description="limit of the series of all sources; above it those of upstream pages are "
            "left out first; half of it is reserved for the sources, in equal parts; the "
            "exporter's own metrics are not limited",
            ge=1,
        ),
    ] = 100_000


class LogSettings(Section, frozen=True):
    """The log on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="minimum level of the log")
    ] = "info"
    format: Annotated[Literal["logfmt", "json"], Meta(description="format of a log line")] = (
        "logfmt"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. sources: by source name."""

    web: WebSettings = field(default_factory=WebSettings)
    page: PageSettings = field(default_factory=PageSettings)
    log: LogSettings = field(default_factory=LogSettings)
    path: Paths = field(default_factory=Paths)
    control: ControlSettings = field(default_factory=ControlSettings)
    sources: Mapping[str, SourceSettings] = field(default_factory=dict)


SECTIONS: dict[str, type[Section]] = {
    "web": WebSettings,
    "page": PageSettings,
    "log": LogSettings,
    "path": Paths,
    "control": ControlSettings,
    **{source.name: source.settings for source in SOURCES},
}


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its names in the file, the environment and the flags, and its type."""

    section: str
    name: str
    type: Any
    default: Any
    description: str
    repeatable: bool
    boolean: bool
    choices: tuple[str, ...]
    """The values of a Literal, or of a list of them."""
    aliases: tuple[str, ...]
    """Further environment variables, of lower precedence than its own."""
    flag_override: str = ""
    """The flag, if it is not --SECTION.NAME."""

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        return (
            self.flag_override
            or f"--{self.section.replace('_', '-')}.{self.name.replace('_', '-')}"
        )

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT}{self.section}_{self.name}".upper()

    @property
    def default_text(self) -> str:
        """The default as text, as in a flag."""
        if self.default is None or self.default in ("", (), {}):
            return "none"
        if self.boolean:
            return str(self.default).lower()
        return ",".join(map(str, self.default)) if self.repeatable else str(self.default)

    def elements(self, value: Any) -> Any:
        """Returns a value of a file; one text in place of a list as from a flag."""
        return self.split([value]) if isinstance(value, str) and self.repeatable else value

    def split(self, flag_values: Iterable[str]) -> list[str]:
        """Returns the elements of a repeated flag; with choices a value may be a comma list."""
        if not self.choices:
            return list(flag_values)
        return [part.strip() for value in flag_values for part in value.split(",")]


@functools.cache
def options() -> tuple[Option, ...]:
    """Returns every setting, in the order of SECTIONS.

    Cached: their annotations are resolved in half of the CPU time of a start.
    """
    return tuple(
        _option(section, declared)
        for section, struct in SECTIONS.items()
        for declared in msgspec.structs.fields(struct)
    )


def _option(section: str, declared: msgspec.structs.FieldInfo) -> Option:
    base, meta = split_type(declared.type)
    extra = meta.extra or {}
    default = declared.default
    if default is msgspec.NODEFAULT:
        default = cast("Any", declared.default_factory)()
    return Option(
        section,
        declared.name,
        declared.type,
        default,
        meta.description or "",
        repeatable=get_origin(base) is tuple,
        boolean=base is bool,
        choices=choices(declared.type),
        aliases=tuple(extra.get("env", ())),
        flag_override=extra.get("flag", ""),
    )


@dataclass(frozen=True, slots=True)
class ConfiguredValue:
    """A value that was set: text, or a list or mapping of a file.

    origin: the file, variable or flag.
    """

    value: Any
    origin: str


def from_file(file: str, known: Mapping[str, Option]) -> Iterator[tuple[str, ConfiguredValue]]:
    """Yields (option key, value) from a YAML file. Raises ConfigError."""
    document = read_yaml(file)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(file, "", "must be a mapping of sections such as `web:`")
    sections = {option.section for option in known.values()}
    for section, values in document.items():
        if section not in sections:
            raise ConfigError(file, str(section), "unknown section")
        if values is None:
            continue
        if not isinstance(values, dict):
            raise ConfigError(file, section, "must be a mapping of settings")
        for name, value in values.items():
            option = known.get(f"{section}.{name}")
            if option is None:
                raise ConfigError(file, f"{section}.{name}", "unknown setting")
            if not is_unset(value, option.type):
                yield option.key, ConfiguredValue(option.elements(value), file)


def from_environment(
    environment: Mapping[str, str], known: Mapping[str, Option]
) -> Iterator[tuple[str, ConfiguredValue]]:
    """Yields (option key, value) from the environment. Raises ConfigError."""
    variables = {name for option in known.values() for name in (option.variable, *option.aliases)}
    for name in environment:
        suffix = name.removeprefix(ENVIRONMENT)
        if suffix == name or name in variables or suffix == "CONFIG_FILE":
            continue
        if not _SERVICE_LINK.match(suffix):
            raise ConfigError("environment", name, "unknown setting")
    for option in known.values():
        for name in (option.variable, *option.aliases):
            if environment.get(name):
                text = environment[name]
                value: Any = text
                if option.repeatable:
                    value = [part.strip() for part in text.split(",")]
                elif name in option.aliases and option.boolean:
                    value = "true"  # Docker's variables: set to any text
                yield option.key, ConfiguredValue(value, f"environment {name}")
                break


def from_flags(
    flags: Mapping[str, Sequence[str]], known: Mapping[str, Option]
) -> Iterator[tuple[str, ConfiguredValue]]:
    """Yields (option key, value) from the flags' texts by option key; the last text counts."""
    for key, texts in flags.items():
        option = known[key]
        value: Any = option.split(texts) if option.repeatable else texts[-1]
        yield key, ConfiguredValue(value, f"flag {option.flag}")


def load(
    file: str | None, environment: Mapping[str, str], flags: Mapping[str, Sequence[str]]
) -> Settings:
    """Loads the settings. flags: texts by option key. Raises ConfigError."""
    known = {option.key: option for option in options()}
    configured = {
        **dict(from_file(file, known) if file else ()),
        **dict(from_environment(environment, known)),
        **dict(from_flags(flags, known)),
    }
    sections = {
        name: _section(name, struct, known, configured) for name, struct in SECTIONS.items()
    }
    return Settings(
        cast("WebSettings", sections["web"]),
        cast("PageSettings", sections["page"]),
        cast("LogSettings", sections["log"]),
        cast("Paths", sections["path"]),
        cast("ControlSettings", sections["control"]),
        {source.name: cast("SourceSettings", sections[source.name]) for source in SOURCES},
    )


def _section(
    name: str,
    struct: type[Section],
    known: Mapping[str, Option],
    configured: Mapping[str, ConfiguredValue],
) -> Section:
    """Returns the section with its configured values converted. Raises ConfigError."""
    values: dict[str, Any] = {}
    origin = "settings"
    for key, entry in configured.items():
        option = known[key]
        if option.section != name:
            continue
        origin = entry.origin
        try:
            values[option.name] = convert(entry.value, option.type)
        except ValueError as error:
            raise ConfigError(entry.origin, key, str(error)) from None
    try:
        section = struct(**values)
        if isinstance(section, SourceSettings):
            section.check()
    except ValueError as error:
        # The message of a section's own validation starts with the key.
        key, _, message = str(error).partition(": ")
        entry_of_key = configured.get(f"{name}.{key}")
        key_origin = entry_of_key.origin if entry_of_key else origin
        raise ConfigError(key_origin, f"{name}.{key}", message) from None
    return section
