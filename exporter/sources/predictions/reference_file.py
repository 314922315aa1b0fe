"""The file of a reference distribution: JSON, a histogram or counts by category."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable
from itertools import pairwise
from typing import IO

import msgspec
from prometheus_client.utils import floatToGoString

from exporter.errors import BadData, Forbidden, NotFound
from exporter.model import Histogram
from exporter.sources.predictions.reading import ReferenceRow

MAX_REFERENCE_BOUNDS = 1000
MAX_CATEGORIES = 100
_MAX_LABEL_LENGTH = 128
_MAX_FILE_BYTES = 1 << 20
_REMEDY = "write the file with `inference-exporter reference`"


class ReferenceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Either bounds (finite, ascending) and buckets (cumulative counts), or counts by label.

    count: all predictions, of which those above the last bound are in no bucket. sum: of their
    values, None if it is unknown. origin: a note on where the values come from.
    """

    origin: str = ""
    bounds: tuple[float, ...] = ()
    buckets: tuple[float, ...] = ()
    count: float = 0
    sum: float | None = None
    labels: dict[str, float] = {}

    def fault(self) -> str:
        """Returns the first fault of the values; empty without one."""
        if bool(self.bounds) is bool(self.labels):
            return "either bounds or labels must be given"
        if self.labels:
            return self._fault_of_labels()
        return self._fault_of_buckets()

    def _fault_of_buckets(self) -> str:
        cumulative = (0.0, *self.buckets, self.count)
        faults = (
            (len(self.bounds) > MAX_REFERENCE_BOUNDS, f"more than {MAX_REFERENCE_BOUNDS} bounds"),
            (
                len(self.buckets) != len(self.bounds),
                f"{len(self.bounds)} bounds, but {len(self.buckets)} buckets",
            ),
            (
                not _finite((*self.bounds, *cumulative, self.sum or 0)),
                "a number is not finite",
            ),
            (
                any(low >= high for low, high in pairwise(self.bounds)),
                "the bounds do not ascend",
            ),
            (
                any(low > high for low, high in pairwise(cumulative)),
                "the buckets are cumulative: none is less than the one before, nor above count",
            ),
            (self.count <= 0, "count is 0: there are no predictions"),
        )
        return next((text for is_fault, text in faults if is_fault), "")

    def _fault_of_labels(self) -> str:
        counts = tuple(self.labels.values())
        if len(self.labels) > MAX_CATEGORIES:
            return f"more than {MAX_CATEGORIES} labels"
        if any(not 0 < len(label) <= _MAX_LABEL_LENGTH for label in self.labels):
            return f"a label is empty, or longer than {_MAX_LABEL_LENGTH} characters"
        if not _finite(counts) or min(counts) < 0:
            return "a count is negative or not finite"
        return "" if any(counts) else "all counts are 0: there are no predictions"

    def row(self, model: str) -> ReferenceRow:
        """Returns the row of a file without a fault."""
        if self.labels:
            return ReferenceRow((model,), categories=tuple(self.labels.items()))
        # As the exposition writes them, so that they equal the labels `le` of the histogram.
        texts = [*map(floatToGoString, self.bounds), "+Inf"]
        widths = [high - low for low, high in pairwise(self.bounds)]
        return ReferenceRow(
            (model,),
            # OpenMetrics allows no sum of a histogram with negative bounds.
            Histogram(
                self.bounds, self.buckets, self.sum if self.bounds[0] >= 0 else None, self.count
            ),
            tuple(zip(texts[:-1], texts[1:], [*widths, 0.0], strict=True)),
        )


def read_reference(path: str) -> ReferenceFile:
    """Reads the file of a reference. Blocks. Raises NotFound, Forbidden, BadData."""
    try:
        # Without waiting for the writer of a pipe.
        with open(path, "rb", opener=_opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadData(f"{path} is no regular file", _REMEDY)
            content = content_of(file)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", _REMEDY) from None
    except OSError as error:
        raise Forbidden(f"{path} cannot be read: {error.strerror}", "check its mode") from None
    if len(content) > _MAX_FILE_BYTES:
        raise BadData(f"{path} is larger than {_MAX_FILE_BYTES} bytes", _REMEDY)
    try:
        reference = msgspec.json.decode(content, type=ReferenceFile)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadData(f"{path}: {error}", _REMEDY) from None
    if fault := reference.fault():
        raise BadData(f"{path}: {fault}", _REMEDY)
    return reference


def content_of(file: IO[bytes]) -> bytes:
    """Reads at most one byte more than a reference may have, without waiting. Raises OSError.

    Nothing of a file that has no content now, such as /proc/kmsg, whose mode is a regular file's.
    """
    return file.read(_MAX_FILE_BYTES + 1) or b""


def _finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
