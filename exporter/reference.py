"""The references of metrics and settings, written from their declarations."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.catalog import catalog
from exporter.config import SECTIONS, Option, options
from exporter.dialects import NAMES, active_dialects
from exporter.registry import SOURCES

_WRITTEN = "<!-- Written by `make docs` from the declarations; do not edit. -->"


def metrics_reference() -> str:
    """docs/metrics.md: every metric by source, with type, labels and meaning."""
    catalog()  # its invariants hold, or there is nothing to write
    return "\n".join(_metrics()) + "\n"


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "", _WRITTEN, "")
    yield "Absent is absent: what the hardware, the kernel or a server does not give has no series."
    for source in SOURCES:
        yield from ("", f"## {source.title}", "", f"Source `{source.name}`.", "")
        yield from ("| Metric | Type | Labels | Meaning |", "| --- | --- | --- | --- |")
        for metric in source.metrics:
            labels = ", ".join(f"`{label}`" for label in metric.label_names)
            meaning = metric.help.replace("|", r"\|")
            yield f"| `{metric.name}` | {metric.type} | {labels} | {meaning} |"
    yield from _dialects()


def _dialects() -> Iterator[str]:
    yield from ("", "## Dialects", "")
    yield "With `--dialect` also shown under the names that people already query, from the same"
    yield "values, under the other exporter's labels. A name of our own wins over a dialect's; in"
    yield "OpenMetrics a counter whose name does not end in `_total` is of type `unknown`."
    for name in NAMES:
        spoken = active_dialects((name,), catalog(), "Hostname", "host")
        yield from ("", f"### {name}", "")
        if spoken.label_rules:
            same = ", ".join(f"`{added.source_metric}`" for added in spoken.label_rules)
            yield from (
                f"On the very same series, labels that were lacking (`id`, `cpu`): {same}.",
                "",
            )
        yield from ("| Metric | Type | Made of |", "| --- | --- | --- |")
        made_of: dict[str, list[str]] = {}
        for each in spoken.family_rules:
            made_of.setdefault(f"| `{each.name}` | {each.type} |", []).append(
                f"`{each.source_metric}`"
            )
        yield from (f"{start} {', '.join(natives)} |" for start, natives in made_of.items())


def settings_reference() -> str:
    """docs/settings.md: every setting by section, with its flag, variable, default, meaning."""
    return "\n".join(_settings()) + "\n"


def _settings() -> Iterator[str]:
    yield from ("# Settings", "", _WRITTEN, "")
    yield "Defaults < YAML file (`--config.file`, `INFERENCE_EXPORTER_CONFIG_FILE`) < environment"
    yield "< flags. In the file a setting stands under its section; in the environment a list is"
    yield "separated by commas; as a flag it is repeated."
    every = list(options())
    for section, struct in SECTIONS.items():
        about = (struct.__doc__ or "").split("\n")[0]
        yield from ("", f"## {section}", "", about, "")
        yield from ("| Flag | Environment | Default | Meaning |", "| --- | --- | --- | --- |")
        yield from (_row(option) for option in every if option.section == section)


def _row(option: Option) -> str:
    variables = ", ".join(f"`{name}`" for name in (option.variable, *option.aliases))
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    meaning = f"{option.description}{choices}".replace("|", r"\|")
    return f"| `{option.flag}` | {variables} | `{option.shown_default}` | {meaning} |"
