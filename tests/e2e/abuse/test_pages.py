"""Attacks by upstreams and Triton servers: pages, responses, and connections kept open."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import find, off
from tests.e2e.abuse.harness import Attack, attack
from tests.e2e.abuse.hostile import Answer, page, serving

ALONE = off("gpu", "containers", "joins")
# Seconds of an attack: several polls at the interval below.
SECONDS = 4.0
FAST = ("--upstream.interval=500ms", "--upstream.timeout=2s")
MEGABYTES = 10


def _page_of(line: bytes) -> bytes:
    """Returns a page that repeats the line, with its number for %d."""
    lines, size, number = [], 0, 0
    while size < MEGABYTES * 1_000_000:
        lines.append(line.replace(b"%d", b"%d" % number))
        size += len(lines[-1])
        number += 1
    return b"".join(lines)[: MEGABYTES * 1_000_000]


PAGES = {
    "samples": b"a%d 1\n",
    "TYPE lines": b"# TYPE a%d gauge\n",
    "HELP lines": b"# HELP a%d x\n",
    "comments": b"# a comment\n",
    "empty lines": b"\n",
    "malformed lines": b"?\n",
    "long labels": b'a{x="%d' + b"x" * 15_000 + b'"} 1\n',
    "labels of wide characters": b'a{x="%d' + "\U0001f600".encode() + b"x" * 1000 + b'"} 1\n',
    "one line": b"a",
    "blanks after a number": b"a 1" + b" " * 10_000_000,
    "blanks": b" ",
    "histogram label sets": b'# TYPE h histogram\nh_bucket{x="%d",le="1"} 1\n',
}


@contextlib.contextmanager
def _attacked(name: str, folder: Path, bound: str, *answers: Answer) -> Iterator[Attack]:
    """Runs the daemon with a good upstream and these."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(page(b"ok 1\n")))
        flags = [f"--upstream.url=good=127.0.0.1:{port}"]
        for number, answer in enumerate(answers):
            port = stack.enter_context(serving(answer))
            flags.append(f"--upstream.url=bad{number}=127.0.0.1:{port}")
        current = stack.enter_context(
            attack(name, folder, *ALONE, *off("triton"), *FAST, *flags, bound=bound)
        )
        yield current


def _assert_good_is_up(current: Attack) -> None:
    samples = current.daemon.samples()
    assert find(samples, "upstream_up", upstream="good") == 1
    text = {k[0] + str(sorted(k[1])): v for k, v in samples.items() if "good" in str(k)}
    assert find(samples, "ok", upstream="good") == 1, text


@pytest.mark.parametrize("kind", PAGES)
def test_four_pages_of_10_mb(kind: str, tmp_path: Path) -> None:
    answer = page(_page_of(PAGES[kind]))
    with _attacked(f"page of {kind}", tmp_path, "limits while reading", *[answer] * 4) as current:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            _assert_good_is_up(current)
            time.sleep(0.2)  # the length of the attack, not a wait
