"""A real card as a profile: an H100 whose every answer was recorded, idle and under load.

h100_answers.csv has the answers and return codes, h100_costs.csv the CPU time that the driver spent
(described in the files). The card is passed through to a virtual machine, without NVLinks. What was
not asked is marked below: printed by `nvidia-smi -q` at that time, or made up.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from tests.fakes.nvml.profiles import MIB, Card, samples

CARD = "h100vm"
COLUMNS = (f"{CARD}_idle", f"{CARD}_load")
TITLE = "H100 80GB HBM3 (every answer)"
_FOLDER = Path(__file__).parent
_RESERVED = 480 * MIB

# Printed by `nvidia-smi -q`, the same idle and under load.
_PRINTED: Card = {
    ("nvmlDeviceGetMemoryInfo_v2", "total"): 81_559 * MIB,
    ("nvmlDeviceGetMemoryInfo_v2", "reserved"): _RESERVED,
    ("nvmlDeviceGetInforomVersion", "0"): "2.1",
    ("nvmlDeviceGetInforomVersion", "1"): "7.16",
    **{
        ("nvmlDeviceGetMemoryErrorCounter", f"{error},{counter},{location}"): 0
        for error in (0, 1)
        for counter in (0, 1)
        for location in (2, 7)
    },
    **{
        ("nvmlDeviceGetSramEccErrorStatus", name): 0
        for name in (
            "aggregateUncParity",
            "aggregateUncSecDed",
            "aggregateCor",
            "volatileUncParity",
            "volatileUncSecDed",
            "volatileCor",
            "aggregateUncBucketL2",
            "aggregateUncBucketSm",
            "aggregateUncBucketPcie",
            "aggregateUncBucketMcu",
            "aggregateUncBucketOther",
            "bThresholdExceeded",
        )
    },
}
# Made up. `*`: every id that the card does not know.
_MADE_UP: Card = {
    ("nvmlDeviceGetSerial", "value"): "1650000000000",
    ("nvmlDeviceGetProcessesUtilizationInfo", "value"): "",
    ("nvmlGpmMetricsGet", "*"): 0,
}


@functools.cache
def _columns(file: str) -> dict[str, Card]:
    """Returns a file's lines as cards, by state: idle or load."""
    lines = (_FOLDER / file).read_text(encoding="ascii").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {
        state: {(row["function"], row["name"]): row[state] for row in rows}
        for state in ("idle", "load")
    }


def _answers(column: str) -> Card:
    return _columns("h100_answers.csv")[column.removeprefix(f"{CARD}_")]


def card(column: str) -> Card:
    """Returns the GPU's answers."""
    answers = _answers(column)
    free = answers["nvmlDeviceGetMemoryInfo", "free"]
    used = int(answers["nvmlDeviceGetMemoryInfo", "used"]) - _RESERVED
    sizes: Card = {
        ("nvmlDeviceGetMemoryInfo_v2", "free"): free,
        ("nvmlDeviceGetMemoryInfo_v2", "used"): used,
    }
    gpu = {key: value for key, value in answers.items() if not key[0].startswith("nvmlSystem")}
    return _MADE_UP | _samples(answers) | _PRINTED | sizes | gpu


def _samples(answers: Card) -> Card:
    """Returns made-up samples, as many as there were of each type."""
    numbers = {
        0: str(answers["nvmlDeviceGetFieldValues", "186"]).split()[1],  # instantaneous power
        1: answers["nvmlDeviceGetUtilizationRates", "gpu"],
        2: answers["nvmlDeviceGetUtilizationRates", "memory"],
    }
    cards: Card = {}
    for kind in range(10):
        if count := answers.get(("nvmlDeviceGetSamples", f"{kind}.count")):
            cards |= samples(kind, int(numbers.get(kind, 0)), int(count))
    return cards


def system(column: str) -> Card:
    """Returns the answers of the functions without a GPU."""
    answers = _answers(column)
    return {key: value for key, value in answers.items() if key[0].startswith("nvmlSystem")}


def costs(column: str) -> Card:
    """Returns the CPU time of each call and field, for `Driver.set_costs`."""
    return _columns("h100_costs.csv")[column.removeprefix(f"{CARD}_")]
