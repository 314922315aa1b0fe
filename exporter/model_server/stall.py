"""Whether a server stands still although it has requests: evidence from its pages. Pure.

Times are monotonic seconds. Work is a change of a counter that only a working engine changes, a
share of a GPU's SMs, or, without a GPU, CPU time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.model_server.mapping import PROGRESS, ModelValues

REASONS = ("no_progress", "page_timeout", "no_response")
"""The page shows no progress; the page times out while the health path returns 200; both time out
although the process listens."""

# Counters that a front end without its engine does not change: prompt tokens of some engines count
# at a request's arrival, rejected and aborted requests without the engine.
_VALUES = ("generated_tokens_total", "preemptions_total", PROGRESS)
_OUTCOMES = ("ok", "error")
_STAGES = ("prefill", "decode")
_HISTOGRAMS = (
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "inter_token_latency_seconds",
    "prefill_duration_seconds",
    "decode_duration_seconds",
)
# From which part of the time until it counts as stalled the health path is requested, too.
_SUSPICION = 0.5
NO_RESPONSE = 0
"""The status of a request without a response."""
HTTP_OK = 200

Progress = Mapping[str, tuple[float, ...]]
"""The counters of work, by model."""


def progress_of(models: Mapping[str, ModelValues]) -> Progress:
    """Returns the counters of work. A model that comes or goes is a change, too."""
    return {
        name: (
            *(model.values.get(key, -1.0) for key in _VALUES),
            *(model.outcomes.get(key, -1.0) for key in _OUTCOMES),
            *(model.stages.get(key, -1.0) for key in _STAGES),
            *(
                histogram.count if (histogram := model.histograms.get(key)) is not None else -1.0
                for key in _HISTOGRAMS
            ),
        )
        for name, model in models.items()
    }


def requests_of(models: Mapping[str, ModelValues]) -> float | None:
    """Returns the running requests, else those that wait; None if the engine reports neither."""
    for key in ("requests_running", "requests_waiting"):
        numbers = [model.values[key] for model in models.values() if key in model.values]
        if numbers:
            return sum(numbers)
    return None


@dataclass(slots=True)
class Activity:
    """What the pages of one server show. requests: of the last page; None: not known now.

    health: the status of the health path, NO_RESPONSE if it timed out; None if it was not
    requested, or the engine has none.
    """

    requests: float | None = None
    health: int | None = None
    _progress: Progress | None = None
    _still_since: float | None = None
    _silent_since: float | None = None

    def page(self, now: float, models: Mapping[str, ModelValues]) -> None:
        """Applies a page."""
        requests, progress = requests_of(models), progress_of(models)
        if not requests:
            self._still_since = None
        elif self._still_since is None or progress != self._progress:
            self._still_since = now
        self.requests, self._progress = requests, progress
        self.health = self._silent_since = None

    def state(self, now: float, health: int | None, *, ready: bool | None) -> None:
        """Applies the health path's status, and whether the server says that it is ready.

        A server that says that it is not, such as one that sleeps, is not stalled.
        """
        self.health = health
        if ready is False:
            self.worked(now)

    def timed_out(self, now: float, health: int | None) -> None:
        """Applies a page that did not arrive in time."""
        self.health = health
        if self._silent_since is None:
            self._silent_since = now

    def failed(self) -> None:
        """Applies another failure, such as a refused connection: the server is down."""
        self.requests = self._still_since = self._silent_since = None

    def worked(self, now: float) -> None:
        """Applies evidence of work, such as a share of a GPU."""
        if self._still_since is not None:
            self._still_since = now
        if self._silent_since is not None:
            self._silent_since = now

    def suspicious(self, now: float, seconds: float) -> bool:
        """Returns whether it may soon count as stalled."""
        since = self._since
        return since is not None and now - since >= seconds * _SUSPICION

    @property
    def _since(self) -> float | None:
        return self._still_since if self._silent_since is None else self._silent_since

    def reason(self, now: float, seconds: float, *, listens: bool) -> str:
        """Returns one of REASONS if it has stood still for so long; empty if not.

        listens: whether a process of this host is known to listen on its port.
        """
        since = self._since
        if since is None or now - since < seconds:
            return ""
        if self._silent_since is None:
            return "no_progress" if self.health in (None, HTTP_OK) else ""
        if self.health == HTTP_OK:
            return "page_timeout"
        silent = self.health in (None, NO_RESPONSE)
        return "no_response" if silent and listens and self.requests else ""
