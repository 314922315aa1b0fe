"""Writes the golden pages: what the exporter shows of each card of hardware.csv (`make golden`).

They are compared in test_golden.py. Where they change, look at what a card gained or lost. The
table in docs/hardware.md is made of them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exporter.sources.gpu import metrics
from exporter.sources.gpu.reading import GpuRow
from exporter.sources.gpu.simulation import card_values
from tests.daemon import parse
from tests.fakes.nvml.profiles import COLUMNS, captured
from tests.paths import ROOT
from tests.sources.gpu.captured import page_of

FOLDER = Path(__file__).with_name("golden")
DOCUMENT = ROOT / "docs" / "hardware.md"
BEGIN = "<!-- Written by `make golden` from tests/sources/gpu/golden; do not edit. -->\n"
END = "<!-- The end of what is written. -->\n"


def golden(column: str) -> Path:
    return FOLDER / f"{column}.prom"


def told() -> set[str]:
    """The metrics that nvidia-smi tells of: of these it is known which card has them."""
    by_key = {
        getattr(metric.get, "key", None): metric.name
        for metric in metrics.METRICS
        if metric.row is GpuRow
    }
    table = (*card_values.TABLE.values(), *card_values.SESSIONS.values())
    return {by_key[one.key] for one in table} | {"gpu_clock_event_active"}


def table() -> str:
    """What the captured cards give and lack, as Markdown."""
    return "\n".join(_table()) + "\n"


def _table() -> Iterator[str]:
    cards = list(dict.fromkeys(column.rpartition("_")[0] for column in COLUMNS))
    pages = {
        card: [parse(golden(f"{card}_{state}").read_text()) for state in ("idle", "load")]
        for card in cards
    }
    titles = [
        captured(f"{card}_idle", "name").removeprefix("NVIDIA ").removeprefix("GeForce ")
        + (", MIG on" if "_mig" in card else "")
        for card in cards
    ]
    yield f"| | {' | '.join(titles)} |"
    yield "| --- |" + " --- |" * len(cards)
    drivers = [captured(f"{card}_idle", "driver_version") for card in cards]
    yield f"| driver | {' | '.join(drivers)} |"
    counts = [" / ".join(str(len(page)) for page in pages[card]) for card in cards]
    yield f"| series, idle / under load | {' | '.join(counts)} |"
    having = {
        metric.name: tuple(
            any(name == metric.name for page in pages[card] for name, _ in page) for card in cards
        )
        for metric in metrics.METRICS
    }
    known = told()
    groups: dict[tuple[bool, ...], list[str]] = {}
    for name, of in having.items():
        if any(of) and not all(of):
            groups.setdefault(of, []).append(f"`{name}`" if name in known else f"`{name}` (*)")
    for of, names in groups.items():
        marks = " | ".join("yes" if one else "-" for one in of)
        yield f"| {'<br>'.join(names)} | {marks} |"
    none = [f"`{name}`" for name, of in having.items() if not any(of)]
    yield ""
    everywhere = sum(all(of) for of in having.values())
    yield f"All of them give {everywhere} metrics more. None of them gave {', '.join(none)}."


def main() -> None:
    """Write a page for each card, and the table."""
    FOLDER.mkdir(exist_ok=True)
    for column in COLUMNS:
        with tempfile.TemporaryDirectory() as folder:
            page, _ = page_of(column, Path(folder))
        golden(column).write_text(page)
    text = DOCUMENT.read_text()
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    DOCUMENT.write_text(between.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", text))


if __name__ == "__main__":
    main()
