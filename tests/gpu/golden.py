"""Writes the golden pages: what the exporter shows of each card of hardware.csv (`make golden`).

They are compared in test_golden.py. Where they change, look at what a card gained or lost.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.gpu.captured import page_of
from tests.gpu.profiles import COLUMNS

FOLDER = Path(__file__).with_name("golden")


def golden(column: str) -> Path:
    return FOLDER / f"{column}.prom"


def main() -> None:
    """Write a page for each card."""
    FOLDER.mkdir(exist_ok=True)
    for column in COLUMNS:
        with tempfile.TemporaryDirectory() as folder:
            page, _ = page_of(column, Path(folder))
        golden(column).write_text(page)


if __name__ == "__main__":
    main()
