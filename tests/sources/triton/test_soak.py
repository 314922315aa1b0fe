"""SOAK_SECONDS (default 60) of load, reloads, a crash and restarts of the daemon."""

from __future__ import annotations

import logging
import os
from itertools import pairwise
from pathlib import Path

import pytest

from tests.sources.triton.soak import BLIND, Sender, Soak, increase, selector, soaking

# Results, for `make soak`.
log = logging.getLogger("soak").warning
SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))

pytestmark = [pytest.mark.real, pytest.mark.timeout(SECONDS * 2 + 240)]


def test_soak(tmp_path: Path) -> None:
    with soaking(tmp_path, SECONDS) as soak:
        assert soak.reloads >= SECONDS / 10
        assert (soak.crashes, soak.daemons) == (1, 3)
        for sender in soak.senders:
            check_counts(soak, sender)
            check_derived(soak, sender)
        check_latencies(soak, soak.senders[0])
        check_memory(soak)


def check_counts(soak: Soak, sender: Sender) -> None:
    """Prometheus counted the sent requests, less those lost at resets before a scrape."""
    values = soak.values(selector("triton_requests_total", sender))
    counted = increase(values)
    sent = sender.sent.requests
    lost_at_most = sum(
        sum(1 for time in generation.recent if time > generation.ended - BLIND)
        for generation in sender.generations[:-1]
    )
    log(f"{sender.model}: sent {sent}, counted {counted:g}, lost at most {lost_at_most}")
    assert sent - lost_at_most <= counted <= sent
    # The last value of each generation in Prometheus never exceeds the number of sent requests.
    lasts = [before for before, after in pairwise(values) if after < before]
    for last, generation in zip([*lasts, values[-1]], sender.generations, strict=True):
        assert last <= generation.sent.requests
    assert values[-1] == sender.generations[-1].sent.requests
    failures = increase(soak.values(selector("triton_request_failures_total", sender)))
    assert sender.sent.failures - lost_at_most <= failures <= sender.sent.failures
    # increase() itself extrapolates to the ends of the range, by two scrapes at most.
    series = f"{selector('triton_requests_total', sender)}[{soak.window}]"
    extrapolated = soak.prometheus.scalar(f"increase({series})")
    assert extrapolated == pytest.approx(counted, rel=5 / soak.seconds)
    resets = soak.prometheus.scalar(f"resets({series})")
    assert resets == len(sender.generations) - 1


def check_derived(soak: Soak, sender: Sender) -> None:
    """No ratio leaves 0 to 1, and no mean time exceeds the longest request."""
    for name, largest in (("triton_success_ratio", 1.0), ("triton_mean_batch_size", 8.0)):
        values = soak.values(selector(name, sender))
        assert values
        assert all(0 <= value <= largest for value in values), name
    for result in soak.prometheus.query(
        f"{selector('triton_latency_seconds', sender)}[{soak.window}]"
    ):
        values = [float(value) for _, value in result["values"]]
        assert all(0 <= value <= sender.longest for value in values), result["metric"]


def check_latencies(soak: Soak, sender: Sender) -> None:
    """Our mean is at most the client's (which adds the network), at least the model's work."""
    total = increase(soak.values(selector("triton_request_duration_seconds_sum", sender)))
    count = increase(soak.values(selector("triton_request_duration_seconds_count", sender)))
    ours, clients = total / count, sender.sent.seconds / sender.sent.successes
    worked = sender.sent.worked / sender.sent.successes
    log(
        f"mean request: ours {ours * 1e3:.3f} ms, the client's {clients * 1e3:.3f} ms "
        f"({(clients - ours) / clients:.2%} less), worked {worked * 1e3:.3f} ms"
    )
    assert worked * 0.98 <= ours <= clients * 1.02


def check_memory(soak: Soak) -> None:
    """The last daemon uses no more memory in the second half of its run than in the first."""
    half = len(soak.resident) // 2
    first, second = max(soak.resident[:half]), max(soak.resident[half:])
    log(f"resident: {first / 1e6:.1f} MB in the first half, {second / 1e6:.1f} MB in the second")
    assert second < first + 4e6
