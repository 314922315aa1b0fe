"""The predictions source: a target for each reference file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.errors import NotFound
from exporter.model import Reading, Target
from exporter.settings import SourceSettings
from exporter.sources.predictions.metrics import UP
from exporter.sources.predictions.settings import Settings
from exporter.worker import Worker

if TYPE_CHECKING:  # the registry imports modules of this package
    from exporter.context import Context
    from exporter.sources.predictions.reference_file import ReferenceFile


class ReferenceTarget:
    """One reference file."""

    up = UP

    def __init__(self, model: str, path: str) -> None:
        self.name = model
        self.up_labels = (model,)
        self._path = path
        # Its own: a file on a hung network file system blocks no other.
        self._worker = Worker(f"predictions {model}")

    async def read(self) -> Reading:
        reference = await self._worker.run(lambda: _read_reference(self._path))
        return Reading((reference.row(self.name),), note=reference.origin[:200])

    def close(self) -> None:
        self._worker.close()


def _read_reference(path: str) -> ReferenceFile:
    """Reads a reference. Raises as `read_reference`."""
    from exporter.sources.predictions.reference_file import read_reference  # noqa: PLC0415 - prometheus_client takes 1 MB, not spent without a reference

    return read_reference(path)


class PredictionsSource:
    """The reference files of the settings."""

    name = "predictions"

    def __init__(self, settings: Settings) -> None:
        self._targets = tuple(
            ReferenceTarget(model, path) for model, path in settings.files.items()
        )

    async def discover(self) -> Sequence[Target]:
        """Returns a target for each file. Raises NotFound without any."""
        if not self._targets:
            raise NotFound("no reference is given", "see --predictions.reference")
        return self._targets

    async def close(self) -> None:
        for target in self._targets:
            target.close()


def build(settings: SourceSettings, context: Context) -> PredictionsSource:  # noqa: ARG001 - every source's build has this signature
    if not isinstance(settings, Settings):
        raise TypeError(f"expected the settings of predictions, not {settings!r}")
    return PredictionsSource(settings)
