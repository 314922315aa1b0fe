"""Settings: defaults < YAML file < environment < flags, from the one declaration in the Sections.

Every failure is a ConfigError whose text is one line that names where the value came from and
which key it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from exporter.control import ControlSettings
from exporter.errors import ConfigError
from exporter.registry import SOURCES
from exporter.settings import Duration, Paths, Section, SourceSettings
from exporter.web.settings import WebSettings
from exporter.yaml_file import read_yaml

ENVIRONMENT = "INFERENCE_EXPORTER_"

# What Kubernetes puts into the environment of every pod beside a Service of our name.
_SERVICE_LINK = re.compile(
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)


class PageSettings(Section, frozen=True):
    """What stands on the page."""

    dialect: Annotated[
        tuple[Literal["dcgm", "cadvisor", "triton"], ...],
        Meta(
            description="show it also under the names of dcgm-exporter, cAdvisor, Triton's port",
            extra={"flag": "--dialect"},
        ),
    ] = ()
    dcgm_hostname: Annotated[
        Literal["Hostname", "hostname", "none"],
        Meta(
            description="dcgm's label for the host's name: as until 4.8.2, as since then, or none"
        ),
    ] = "Hostname"
    max_series: Annotated[
        int,
        Meta(
            description="most series of all sources; the readings that grow are cut short, the "
            "exporter's own never",
            ge=1,
        ),
    ] = 100_000


class LogSettings(Section, frozen=True):
    """What is said on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")
    ] = "info"
    format: Annotated[Literal["logfmt", "json"], Meta(description="how a line is written")] = (
        "logfmt"
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. sources: by the source's name."""

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
class ConfiguredValue:
    """A value as it was written, and where. text: written as text, so "5" may be a number."""

    value: Any
    origin: str
    text: bool


def from_environment(
    environment: Mapping[str, str], known: Mapping[str, Option]
) -> Iterator[tuple[str, ConfiguredValue]]:
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
                yield option.key, ConfiguredValue(value, f"environment {name}", text=True)
                break


def from_file(file: str, known: Mapping[str, Option]) -> Iterator[tuple[str, ConfiguredValue]]:
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
            yield f"{section}.{name}", ConfiguredValue(value, file, text=False)


def options() -> Iterator[Option]:
    """Every setting there is, in the order of the sections."""
    for section, struct in SECTIONS.items():
        hints = get_type_hints(struct, include_extras=True)
        for each in msgspec.structs.fields(struct):
            hint = hints[each.name]
            meta = next((part for part in get_args(hint) if isinstance(part, Meta)), Meta())
            extra = meta.extra or {}
            aliases = tuple(extra.get("env", ()))
            default = each.default
            if default is msgspec.NODEFAULT:
                default = cast("Any", each.default_factory)()
            yield Option(
                section,
                each.name,
                hint,
                default,
                meta.description or "",
                aliases,
                extra.get("flag", ""),
            )


def load(
    file: str | None, environment: Mapping[str, str], flags: Mapping[str, Sequence[str]]
) -> Settings:
    """Read the settings. flags: by option key, the texts given. Raises ConfigError."""
    known = {option.key: option for option in options()}
    given: dict[str, ConfiguredValue] = {}
    if file:
        given.update(from_file(file, known))
    given.update(from_environment(environment, known))
    for key, texts in flags.items():
        option = known[key]
        value: Any = texts[-1]
        if option.repeatable:
            value = option.split(texts)
        given[key] = ConfiguredValue(value, f"flag {option.flag}", text=True)
    sections = {name: _section(name, struct, known, given) for name, struct in SECTIONS.items()}
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
    given: Mapping[str, ConfiguredValue],
) -> Section:
    values: dict[str, Any] = {}
    origin = "settings"
    for key, entry in given.items():
        option = known[key]
        if option.section != name:
            continue
        origin = entry.origin
        value = entry.value
        if isinstance(value, bool) and {"on", "off"} <= set(option.choices):
            value = "on" if value else "off"  # YAML reads a bare on and off as booleans
        try:
            values[option.name] = msgspec.convert(
                value, option.type, strict=not entry.text, dec_hook=_custom
            )
        except (msgspec.ValidationError, ValueError) as error:
            message = str(error).replace(" - at `$`", "").replace(" - at `$", " - at `")
            raise ConfigError(entry.origin, key, " ".join(message.split())) from None
    try:
        section = struct(**values)
        if isinstance(section, SourceSettings):
            section.check()
    except ValueError as error:
        # A section checks its values together and begins its message with the name of the key.
        key, _, message = str(error).partition(": ")
        entry_of_key = given.get(f"{name}.{key}")
        where = entry_of_key.origin if entry_of_key else origin
        raise ConfigError(where, f"{name}.{key}", message) from None
    return section


def _custom(type_: type, value: object) -> object:
    if issubclass(type_, Duration):
        return type_.parse(value)
    raise NotImplementedError(f"no reader for {type_}")
