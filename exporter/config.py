"""Settings: defaults < YAML file < environment < flags, from the one declaration in the Sections.

Every failure is a ConfigError whose text is one line that names where the value came from and
which key it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args, get_type_hints

import msgspec
from msgspec import Meta

from exporter.control import Control
from exporter.errors import ConfigError
from exporter.given import Given, Option, from_environment, from_file
from exporter.settings import Duration, Paths, Section, SourceSettings
from exporter.sources import SOURCES
from exporter.web.settings import Web


class Page(Section, frozen=True):
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


class Log(Section, frozen=True):
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

    web: Web = field(default_factory=Web)
    page: Page = field(default_factory=Page)
    log: Log = field(default_factory=Log)
    path: Paths = field(default_factory=Paths)
    control: Control = field(default_factory=Control)
    sources: Mapping[str, SourceSettings] = field(default_factory=dict)


SECTIONS: dict[str, type[Section]] = {
    "web": Web,
    "page": Page,
    "log": Log,
    "path": Paths,
    "control": Control,
    **{source.name: source.settings for source in SOURCES},
}


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
    given: dict[str, Given] = {}
    if file:
        given.update(from_file(file, known))
    given.update(from_environment(environment, known))
    for key, texts in flags.items():
        option = known[key]
        value: Any = texts[-1]
        if option.repeatable:
            value = option.split(texts)
        given[key] = Given(value, f"flag {option.flag}", text=True)
    sections = {name: _section(name, struct, known, given) for name, struct in SECTIONS.items()}
    return Settings(
        cast("Web", sections["web"]),
        cast("Page", sections["page"]),
        cast("Log", sections["log"]),
        cast("Paths", sections["path"]),
        cast("Control", sections["control"]),
        {source.name: cast("SourceSettings", sections[source.name]) for source in SOURCES},
    )


def _section(
    name: str, struct: type[Section], known: Mapping[str, Option], given: Mapping[str, Given]
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
