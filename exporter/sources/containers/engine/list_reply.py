"""The engine's container list, read element by element while it arrives.

Only the used fields of each container are kept, so a list may be far longer than the memory for it,
and a container that cannot be read costs only itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.sources.containers.engine.api_types import ContainerSummary
from exporter.sources.containers.engine.json_reply import decode_reply
from exporter.sources.containers.engine.json_stream import MAX_STEPS, JsonPiece, JsonPieces
from exporter.sources.containers.problems import Problems

# Bounds of the bytes that are read; and of the containers that are kept, and the bytes of their
# texts.
MAX_LIST_BYTES, MAX_LISTED, MAX_SUMMARIES_BYTES = 64 << 20, 20_000, 16 << 20
# Of one container: its labels and other members, each, and all of it without longer members; the
# values in it.
MAX_MEMBER_BYTES, MAX_SUMMARY_BYTES, MAX_SUMMARY_VALUES = 1 << 16, 1 << 18, 10_000
# Bytes of a summary without its texts, but with its ID.
_SUMMARY_BYTES = 500
_SUBJECT = "the container list"
# The engine writes the ID first, before any text of a user.
_LEADING_ID = re.compile(rb'\s*\{\s*"Id"\s*:\s*"([0-9a-f]{64})"')

KeepLabels = Callable[[Mapping[str, str]], dict[str, str] | None]
"""Returns the labels to keep of a container; None if a filter leaves the container out."""


class ListReply:
    """One list, and the containers that are left out of it.

    known: IDs of containers that stay known if they are not read. labels_decide: whether a filter
    by label is set: a container without readable labels is then left out. is_late: whether the
    rest of the list has to wait.
    """

    def __init__(
        self,
        known: Collection[str],
        keep_labels: KeepLabels,
        problems: Problems,
        *,
        labels_decide: bool,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self._known = known
        self._keep_labels = keep_labels
        self._labels_decide = labels_decide
        self._is_late = is_late
        self._problems = problems
        self._size = 0
        self._limit = ""
        """The limit above which containers are only counted; empty below it."""
        self.summaries: dict[str, ContainerSummary] = {}
        """The containers that no filter by label leaves out, by ID."""
        self.ids: set[str] = set()
        """IDs of the containers in the list, also of those that are left out."""
        self.filtered = 0
        """Number of containers that a filter by label leaves out."""
        self.unreadable = 0
        """Number of unknown containers that are invalid, too long, or above a limit."""
        self.unread: set[str] = set()
        """IDs of the known containers that are invalid, too long, or above a limit."""
        self.complete = False
        """Whether the list was read to its end."""
        self.late = False
        """Whether the time ended the reading."""

    def read(self, parts: Iterable[bytes]) -> None:
        """Reads the list from the parts of the reply. Raises BadData if it is not a list."""
        end = self._read(parts)
        self.complete = not end
        if end and not self.ids:
            raise BadData(f"{_SUBJECT} has {end}, and no container")
        if reasons := " and ".join(filter(None, (self._limit, end))):
            rest = " and all after them" if end else ""
            self._problems.append(
                BadData(
                    f"{_SUBJECT} has {reasons}: of the new containers"
                    f" {self.unreadable}{rest} are left out"
                )
            )

    def _read(self, parts: Iterable[bytes]) -> str:
        """Returns the limit at which reading ends; empty at the end of the list. Raises BadData."""
        pieces = JsonPieces(_SUBJECT, 2, max_member=MAX_MEMBER_BYTES, max_piece=MAX_SUMMARY_BYTES)
        length = 0
        is_first = True
        for part in parts:
            length += len(part)
            for piece in pieces.feed(part):
                self._add(_without_opening(piece) if is_first else piece)
                is_first = False
            if length > MAX_LIST_BYTES:
                return f"more than {MAX_LIST_BYTES >> 20} MiB"
            if pieces.steps > MAX_STEPS:
                return f"more than {MAX_STEPS} values"
            if self.ids and self._is_late():  # otherwise the timeout ends it
                self.late = True
                return "more than can be read within half of the timeout"
        last = pieces.finish()
        if is_first:
            last = _without_opening(last)
        if not last.too_long:
            last = replace(last, text=last.text.rstrip().removesuffix(b"]").strip())
        if last.text or not is_first:
            self._add(last)
        return ""

    def _add(self, piece: JsonPiece) -> None:
        leading_id = match[1].decode() if (match := _LEADING_ID.match(piece.text)) else ""
        is_known = leading_id in self._known
        if leading_id and (is_known or not self._limit):
            self.ids.add(leading_id)
        try:
            is_read = not self._limit and self._keep(self._summary(piece))
        except BadData as problem:
            self._problems.append(problem)
            is_read = False
        if is_known and not is_read:
            self.unread.add(leading_id)
        elif not is_read:
            self.unreadable += 1

    def _summary(self, piece: JsonPiece) -> ContainerSummary:
        """Returns a container of the list, with its own name only. Raises BadData."""
        subject = "a container in the list"
        if piece.too_long:
            raise BadData(f"{subject} is longer than {MAX_SUMMARY_BYTES >> 10} KiB")
        faults = Faults()
        summary = decode_reply(piece.text, ContainerSummary, subject, faults, MAX_SUMMARY_VALUES)
        summary.names = [summary.name]
        subject = f"container {summary.id[:12]} in the list"
        if piece.omitted:
            reason = f"labels, or another member, longer than {MAX_MEMBER_BYTES >> 10} KiB"
            if summary.labels is None and self._labels_decide:
                raise BadData(f"{subject}: {reason}")
            faults.add(reason)
        self._problems.faults.add("container list", faults, subject)
        return summary

    def _keep(self, summary: ContainerSummary) -> bool:
        """Keeps a container, unless a filter leaves it out; returns False at a limit."""
        self.ids.add(summary.id)
        summary.labels = self._keep_labels(summary.labels or {})
        if summary.labels is None:
            self.filtered += 1
            return True
        texts = (summary.name, summary.state, summary.status, *summary.labels.values())
        self._size += _SUMMARY_BYTES + sum(map(sys.getsizeof, (*texts, *summary.labels)))
        if len(self.ids) > MAX_LISTED:
            self._limit = f"more than {MAX_LISTED} containers"
        elif self._size > MAX_SUMMARIES_BYTES:
            self._limit = f"more than {MAX_SUMMARIES_BYTES >> 20} MiB of names and labels"
        else:
            self.summaries[summary.id] = summary
        return not self._limit


def _without_opening(piece: JsonPiece) -> JsonPiece:
    """Returns the first piece without the bracket of the list. Raises BadData."""
    text = piece.text.lstrip()
    if not text.startswith(b"["):
        raise BadData(f"{_SUBJECT}: not an array")
    return replace(piece, text=text[1:])
