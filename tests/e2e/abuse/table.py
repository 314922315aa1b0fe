"""Prints the report of `make abuse` as a Markdown table: `python -m tests.e2e.abuse.table FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = (
    "| Attack | Bound | Peak memory MB | Worst scrape ms | p95 ms (before) | Scrapes lost |\n"
    "| --- | --- | --- | --- | --- | --- |\n"
)


def table(lines: list[str]) -> str:
    """Returns the table of the report's JSON lines, in the order of the attacks' names."""
    rows = sorted((json.loads(line) for line in lines), key=lambda row: str(row["attack"]))
    return HEAD + "".join(
        f"| {row['attack']} | {row['bound']} | {row['peak_mb']} | {row['worst_ms']} |"
        f" {row['p95_ms']} ({row['quiet_p95_ms']}) | {row['lost']} of {row['scrapes']} |\n"
        for row in rows
    )


if __name__ == "__main__":
    sys.stdout.write(table(Path(sys.argv[1]).read_text().splitlines()))
