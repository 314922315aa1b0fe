"""A page that the merge parses and another source reads at the same time, from the same bytes."""

from __future__ import annotations

from typing import Any

from exporter.errors import SourceError
from exporter.shared_pages import PieceReader, SharedPage
from exporter.upstream.text_parser import PageParser, ParsedPage, TextParser


class TappedParser:
    """Begins pages of the merge's parser and of the shared page's reader, if it has one."""

    def __init__(self, parser: TextParser, shared: SharedPage) -> None:
        self._parser = parser
        self._shared = shared
        self.result: Any = None
        """The reader's result for the page."""
        self.error: SourceError | None = None
        """The reader's error, which is none of the merge."""

    def begin(self, content_type: str = "") -> TappedPage:
        reader = self._shared.begin(content_type) if self._shared.begin is not None else None
        return TappedPage(self, self._parser.begin(content_type), reader)


class TappedPage:
    """One page; feeds the reader until it raises an error."""

    def __init__(self, owner: TappedParser, page: PageParser, reader: PieceReader | None) -> None:
        self._owner = owner
        self._page = page
        self._reader = reader

    @property
    def cost(self) -> int:
        return self._page.cost

    def cost_after(self, piece: bytes) -> int:
        return self._page.cost_after(piece)

    def feed(self, piece: bytes) -> None:
        self._page.feed(piece)
        if self._reader is not None:
            try:
                self._reader.feed(piece)
            except SourceError as error:
                self._reader, self._owner.error = None, error

    def finish(self) -> ParsedPage:
        page = self._page.finish()
        if self._reader is not None:
            try:
                self._owner.result = self._reader.finish()
            except SourceError as error:
                self._owner.error = error
        return page
