"""Settings of the predictions source."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from exporter.settings import Duration, SourceSettings

_NAME = re.compile(r"[^\s={}\"\\]{1,128}\Z")


def parse_reference(text: str) -> tuple[str, str]:
    """Returns the model and the path of NAME=FILE. Raises ValueError."""
    name, equals, path = text.partition("=")
    if not equals or not path or not _NAME.match(name):
        raise ValueError(f"{text!r:.80} is not NAME=FILE, such as wine=/etc/wine-reference.json")
    return name, path


class Settings(SourceSettings, frozen=True):
    """Reference distributions of models' predictions, for the rules about drift."""

    interval: Annotated[Duration, Meta(description="time between reads of the files")] = Duration(
        30
    )
    reference: Annotated[
        tuple[str, ...],
        Meta(
            description="`NAME=FILE`: reference distribution of the predictions of model NAME, "
            "written by `inference-exporter reference`; may be given several times"
        ),
    ] = ()

    @property
    def files(self) -> dict[str, str]:
        """Paths by model."""
        return dict(map(parse_reference, self.reference))

    def __post_init__(self) -> None:
        models: set[str] = set()
        for text in self.reference:
            try:
                model, _ = parse_reference(text)
            except ValueError as error:
                raise ValueError(f"reference: {error}") from None
            if model in models:
                raise ValueError(f"reference: {model} is given twice")
            models.add(model)
