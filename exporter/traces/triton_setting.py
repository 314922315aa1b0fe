"""The trace settings of a Triton server or model, as its trace extension returns them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from exporter.errors import BadData
from exporter.faults import Faults
from exporter.json_struct import decode_leniently
from exporter.traces.otlp_json import INSTANCE_ATTRIBUTE

_INSTANCE = re.compile(rf"{re.escape(INSTANCE_ATTRIBUTE)}=([^,\s]{{1,256}})")
_MAX_NUMBER = 2**31


class SettingReply(msgspec.Struct):
    trace_mode: str | None = ""
    trace_level: list[str] | None = None
    trace_rate: str | None = None
    trace_count: str | None = None
    resource: str | None = ""


@dataclass(frozen=True, slots=True)
class TritonTraceSetting:
    """Trace settings. instance: the service.instance.id of the spans; empty for none.

    levels, rate, count: None if unknown. count: of the traces left; -1 for no limit.
    """

    mode: str
    instance: str
    levels: tuple[str, ...] | None
    rate: int | None
    count: int | None

    @property
    def is_on(self) -> bool:
        """Whether time stamps are traced."""
        return "TIMESTAMPS" in (self.levels or ()) and "OFF" not in (self.levels or ())

    @property
    def traces(self) -> bool:
        """Whether requests are traced now: a limit of the traces is not used up."""
        return self.is_on and self.count != 0


def parse_setting(body: bytes, faults: Faults) -> TritonTraceSetting:
    """Parses a reply. Members of the wrong type are unknown, and faults. Raises BadData."""
    try:
        reply = decode_leniently(body, SettingReply, faults)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadData("trace settings: not the response of a Triton server") from None
    found = _INSTANCE.search(reply.resource or "")
    rate = _number(reply.trace_rate)
    return TritonTraceSetting(
        (reply.trace_mode or "")[:64],
        found[1] if found is not None else "",
        tuple(reply.trace_level[:16]) if reply.trace_level is not None else None,
        rate if rate is None or rate > 0 else None,
        _number(reply.trace_count),
    )


def _number(text: str | None) -> int | None:
    if text is None or not re.fullmatch(r"-?[0-9]{1,10}", text):
        return None
    return int(text) if -1 <= int(text) < _MAX_NUMBER else None
