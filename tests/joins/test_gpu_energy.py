"""Whose energy it was: the arithmetic, and that not a millijoule is lost or made."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_energy import UNATTRIBUTED, GpuEnergy, GpuEnergyReading, split

A, B, C = (("a", "a:1"), ("b", "b:1"), ("c", "c:1"))
GPU = "GPU-0"


@pytest.mark.parametrize(
    ("amount", "shares", "expected"),
    [
        (1000, {A: 0.3}, {A: 300, UNATTRIBUTED: 700}),
        (1000, {A: 0.3, B: 0.5}, {A: 300, B: 500, UNATTRIBUTED: 200}),
        (1000, {}, {UNATTRIBUTED: 1000}),
        (1000, {A: 0.0}, {A: 0, UNATTRIBUTED: 1000}),
        (1000, {A: 1.0}, {A: 1000, UNATTRIBUTED: 0}),
        # More than the whole: parts of their sum.
        (900, {A: 1.0, B: 0.5}, {A: 600, B: 300, UNATTRIBUTED: 0}),
        (1400, {A: 0.5, UNATTRIBUTED: 0.9}, {A: 500, UNATTRIBUTED: 900}),
        # What does not divide goes where the most was cut off.
        (10, {A: 0.33, B: 0.34}, {A: 3, B: 4, UNATTRIBUTED: 3}),
        (1, {A: 0.2, B: 0.7}, {A: 0, B: 1, UNATTRIBUTED: 0}),
        (2, {A: 1.0, B: 1.0, C: 1.0}, {A: 1, B: 1, C: 0, UNATTRIBUTED: 0}),
        (0, {A: 0.5}, {A: 0, UNATTRIBUTED: 0}),
        (1000, {A: float("nan"), B: -1.0, C: float("inf")}, {UNATTRIBUTED: 1000}),
    ],
)
def test_how_it_is_divided(
    amount: int, shares: dict[ContainerKey, float], expected: dict[ContainerKey, int]
) -> None:
    parts = split(amount, shares)
    assert {who: part for who, part in parts.items() if part} == {
        who: part for who, part in expected.items() if part
    }
    assert sum(parts.values()) == amount


@given(
    st.integers(0, 1 << 60),
    st.dictionaries(
        st.sampled_from([A, B, C, ("d", ""), ("e", "")]),
        st.floats(0, 3, allow_nan=False) | st.floats(),
    ),
)
def test_nothing_is_lost_and_nobody_gets_less_than_nothing(
    amount: int, shares: dict[ContainerKey, float]
) -> None:
    parts = split(amount, shares)
    assert sum(parts.values()) == amount
    assert min(parts.values()) >= 0
    for who, part in parts.items():
        if who != UNATTRIBUTED and 0 <= shares[who] <= 1:
            assert part <= amount * shares[who] * (1 + 1e-9) + amount / 1_000_000 + 1


def followed(
    energy: GpuEnergy,
    counter: int | None,
    shares: Mapping[ContainerKey, float] | None = None,
    names: tuple[ContainerKey, ...] = (A, B),
    living: tuple[ContainerKey, ...] = (A, B, C),
) -> dict[ContainerKey, int] | None:
    now = GpuEnergyReading(counter, shares or {}, names)
    return energy.follow({GPU: now}, living).get(GPU)


def test_every_name_begins_at_0_and_then_gets_its_share() -> None:
    energy = GpuEnergy()
    assert followed(energy, 5_000_000, {A: 0.9}) == {UNATTRIBUTED: 0, A: 0, B: 0}
    assert followed(energy, 5_001_000, {A: 0.6, B: 0.1}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    # The same reading again, and one of a GPU that is as it was.
    assert followed(energy, 5_001_000, {A: 0.6, B: 0.1}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    assert followed(energy, 5_001_000, {B: 1.0}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    # A reading was missed: the shares are the newest.
    assert followed(energy, 5_003_000, {B: 1.0}) == {UNATTRIBUTED: 300, A: 600, B: 2100}


def test_a_name_gets_nothing_of_what_was_used_before_it_was_shown() -> None:
    energy = GpuEnergy()
    followed(energy, 0)
    assert followed(energy, 1000, {C: 0.5, A: 0.5}, (A, C)) == {
        UNATTRIBUTED: 500,
        A: 500,
        B: 0,
        C: 0,
    }
    assert followed(energy, 2000, {C: 0.5}, (C,)) == {UNATTRIBUTED: 1000, A: 500, B: 0, C: 500}


def test_it_stays_while_the_container_lives_and_goes_with_it() -> None:
    energy = GpuEnergy()
    followed(energy, 0)
    followed(energy, 1000, {A: 1.0})
    assert followed(energy, 2000, {}, ()) == {UNATTRIBUTED: 1000, A: 1000, B: 0}
    assert followed(energy, 2000, {}, (), (B,)) == {UNATTRIBUTED: 1000, B: 0}
    # It returns, by its name: as another.
    assert followed(energy, 3000, {A: 1.0}) == {UNATTRIBUTED: 2000, A: 0, B: 0}
    assert followed(energy, 4000, {A: 1.0}) == {UNATTRIBUTED: 2000, A: 1000, B: 0}


def test_what_was_used_while_nobody_looked_is_nobodys() -> None:
    energy = GpuEnergy()
    followed(energy, 1000)
    assert energy.follow({}, (A, B)) == {}
    assert followed(energy, 5000, {A: 1.0}) == {UNATTRIBUTED: 4000, A: 0, B: 0}
    assert followed(energy, None, {A: 1.0}) is None  # it sleeps, or does not say
    assert followed(energy, 6000, {A: 1.0}) == {UNATTRIBUTED: 5000, A: 0, B: 0}
    assert followed(energy, 7000, {A: 1.0}) == {UNATTRIBUTED: 5000, A: 1000, B: 0}


def test_a_counter_that_began_anew_has_risen_by_what_it_says() -> None:
    energy = GpuEnergy()
    followed(energy, 9_000_000)
    followed(energy, 9_001_000, {A: 1.0})
    assert followed(energy, 400, {A: 1.0}) == {UNATTRIBUTED: 400, A: 1000, B: 0}
    assert followed(energy, 500, {A: 1.0}) == {UNATTRIBUTED: 400, A: 1100, B: 0}


def test_gpus_that_never_return_are_forgotten_at_last() -> None:
    energy = GpuEnergy()
    followed(energy, 1000)
    for n in range(300):
        energy.follow({f"GPU-{n}-more": GpuEnergyReading(n)}, ())
    assert len(energy._accounts) <= 258
    assert followed(energy, 5000, {A: 1.0}) == {UNATTRIBUTED: 0, A: 0, B: 0}, "anew"


Step = tuple[int | None, dict[ContainerKey, float], set[ContainerKey], set[ContainerKey]]
NAMES = st.sets(st.sampled_from([A, B, C]))
SHARES = st.dictionaries(st.sampled_from([A, B, C]), st.floats(0, 1))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.none() | st.integers(0, 10_000), SHARES, NAMES, NAMES)))
def test_the_law_of_increases(steps: list[Step]) -> None:
    """As Prometheus counts: a series' rises; a fall is a new beginning at 0."""
    energy = GpuEnergy()
    counter: int | None = None
    risen = booked = 0
    before: dict[ContainerKey, int] = {}
    for value, shares, idle, alive in steps:
        names = idle | shares.keys()
        living = alive | names
        shown = energy.follow({GPU: GpuEnergyReading(value, shares, names)}, living).get(GPU)
        if value is None:
            assert shown is None
            continue
        assert shown is not None
        risen += 0 if counter is None else value if value < counter else value - counter
        counter = value
        for who, now in shown.items():
            # A series that is new stands at 0, where Prometheus sees it before it rises.
            last = before.get(who, 0)
            assert now >= last or (now == 0 and who not in living), who
            if who not in before:
                assert now == 0 or who == UNATTRIBUTED
            booked += now - last if now >= last else now
        assert booked == risen
        before = shown
