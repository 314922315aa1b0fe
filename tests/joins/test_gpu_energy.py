"""GPU energy by container: the arithmetic; the sum of all parts is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.joins.container_names import ContainerKey
from exporter.joins.gpu_energy import UNATTRIBUTED, GpuEnergy, GpuEnergyReading, split_energy

A, B, C = (("a", "a:1"), ("b", "b:1"), ("c", "c:1"))
GPU = "GPU-0"


@pytest.mark.parametrize(
    ("increase", "shares", "expected"),
    [
        (1000, {A: 0.3}, {A: 300, UNATTRIBUTED: 700}),
        (1000, {A: 0.3, B: 0.5}, {A: 300, B: 500, UNATTRIBUTED: 200}),
        (1000, {}, {UNATTRIBUTED: 1000}),
        (1000, {A: 0.0}, {A: 0, UNATTRIBUTED: 1000}),
        (1000, {A: 1.0}, {A: 1000, UNATTRIBUTED: 0}),
        # More than 1: divided by their sum.
        (900, {A: 1.0, B: 0.5}, {A: 600, B: 300, UNATTRIBUTED: 0}),
        (1400, {A: 0.5, UNATTRIBUTED: 0.9}, {A: 500, UNATTRIBUTED: 900}),
        # Largest remainders.
        (10, {A: 0.33, B: 0.34}, {A: 3, B: 4, UNATTRIBUTED: 3}),
        (1, {A: 0.2, B: 0.7}, {A: 0, B: 1, UNATTRIBUTED: 0}),
        (2, {A: 1.0, B: 1.0, C: 1.0}, {A: 1, B: 1, C: 0, UNATTRIBUTED: 0}),
        (0, {A: 0.5}, {A: 0, UNATTRIBUTED: 0}),
        (1000, {A: float("nan"), B: -1.0, C: float("inf")}, {UNATTRIBUTED: 1000}),
    ],
)
def test_split(
    increase: int, shares: dict[ContainerKey, float], expected: dict[ContainerKey, int]
) -> None:
    parts = split_energy(increase, shares)
    assert {key: part for key, part in parts.items() if part} == {
        key: part for key, part in expected.items() if part
    }
    assert sum(parts.values()) == increase


@given(
    st.integers(0, 1 << 60),
    st.dictionaries(
        st.sampled_from([A, B, C, ("d", ""), ("e", "")]),
        st.floats(0, 3, allow_nan=False) | st.floats(),
    ),
)
def test_the_parts_add_up_and_none_is_negative(
    increase: int, shares: dict[ContainerKey, float]
) -> None:
    parts = split_energy(increase, shares)
    assert sum(parts.values()) == increase
    assert min(parts.values()) >= 0
    for key, part in parts.items():
        if key != UNATTRIBUTED and 0 <= shares[key] <= 1:
            assert part <= increase * shares[key] * (1 + 1e-9) + increase / 1_000_000 + 1


def updated(
    energy: GpuEnergy,
    counter: int | None,
    shares: Mapping[ContainerKey, float] | None = None,
    containers: tuple[ContainerKey, ...] = (A, B),
    existing: tuple[ContainerKey, ...] = (A, B, C),
) -> dict[ContainerKey, int] | None:
    reading = GpuEnergyReading(counter, shares or {}, containers)
    return energy.update({GPU: reading}, existing).get(GPU)


def test_every_container_starts_at_0_and_gets_its_share() -> None:
    energy = GpuEnergy()
    assert updated(energy, 5_000_000, {A: 0.9}) == {UNATTRIBUTED: 0, A: 0, B: 0}
    assert updated(energy, 5_001_000, {A: 0.6, B: 0.1}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    # The same reading again, and one with the same counter.
    assert updated(energy, 5_001_000, {A: 0.6, B: 0.1}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    assert updated(energy, 5_001_000, {B: 1.0}) == {UNATTRIBUTED: 300, A: 600, B: 100}
    # A poll was missed: the last shares count.
    assert updated(energy, 5_003_000, {B: 1.0}) == {UNATTRIBUTED: 300, A: 600, B: 2100}


def test_a_new_container_gets_no_earlier_energy() -> None:
    energy = GpuEnergy()
    updated(energy, 0)
    assert updated(energy, 1000, {C: 0.5, A: 0.5}, (A, C)) == {
        UNATTRIBUTED: 500,
        A: 500,
        B: 0,
        C: 0,
    }
    assert updated(energy, 2000, {C: 0.5}, (C,)) == {UNATTRIBUTED: 1000, A: 500, B: 0, C: 500}


def test_a_series_ends_with_its_container() -> None:
    energy = GpuEnergy()
    updated(energy, 0)
    updated(energy, 1000, {A: 1.0})
    assert updated(energy, 2000, {}, ()) == {UNATTRIBUTED: 1000, A: 1000, B: 0}
    assert updated(energy, 2000, {}, (), (B,)) == {UNATTRIBUTED: 1000, B: 0}
    # A new container of the same name.
    assert updated(energy, 3000, {A: 1.0}) == {UNATTRIBUTED: 2000, A: 0, B: 0}
    assert updated(energy, 4000, {A: 1.0}) == {UNATTRIBUTED: 2000, A: 1000, B: 0}


def test_energy_used_while_the_gpu_was_missing_is_unattributed() -> None:
    energy = GpuEnergy()
    updated(energy, 1000)
    assert energy.update({}, (A, B)) == {}
    assert updated(energy, 5000, {A: 1.0}) == {UNATTRIBUTED: 4000, A: 0, B: 0}
    assert updated(energy, None, {A: 1.0}) is None  # suspended, or not reported
    assert updated(energy, 6000, {A: 1.0}) == {UNATTRIBUTED: 5000, A: 0, B: 0}
    assert updated(energy, 7000, {A: 1.0}) == {UNATTRIBUTED: 5000, A: 1000, B: 0}


def test_a_counter_reset_is_an_increase_by_the_new_value() -> None:
    energy = GpuEnergy()
    updated(energy, 9_000_000)
    updated(energy, 9_001_000, {A: 1.0})
    assert updated(energy, 400, {A: 1.0}) == {UNATTRIBUTED: 400, A: 1000, B: 0}
    assert updated(energy, 500, {A: 1.0}) == {UNATTRIBUTED: 400, A: 1100, B: 0}


def test_accounts_of_missing_gpus_are_limited() -> None:
    energy = GpuEnergy()
    updated(energy, 1000)
    for n in range(300):
        energy.update({f"GPU-{n}-more": GpuEnergyReading(n)}, ())
    assert len(energy._accounts) <= 258
    assert updated(energy, 5000, {A: 1.0}) == {UNATTRIBUTED: 0, A: 0, B: 0}, "a new account"


Step = tuple[int | None, dict[tuple[str, ...], float], set[ContainerKey], set[ContainerKey]]


def random_steps(random: Random) -> Iterator[Step]:
    """Yields counters, shares, idle and other containers; drawn by hypothesis, they take longer."""

    def some() -> set[ContainerKey]:
        return {key for key in (A, B, C) if random.random() < 0.5}

    for _ in range(random.randrange(20)):
        value = None if random.random() < 0.2 else random.choice((0, 1, random.randrange(10_001)))
        shares: dict[tuple[str, ...], float] = {
            key: random.choice((0.0, 1e-9, 0.5, random.random(), 1.0)) for key in some()
        }
        yield value, shares, some(), some()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 1 << 32))
def test_increases_add_up_to_those_of_the_gpu(seed: int) -> None:
    """Increases as in Prometheus: a fall is a counter reset."""
    energy = GpuEnergy()
    counter: int | None = None
    expected = increases = 0
    before: dict[ContainerKey, int] = {}
    for value, shares, idle, others in random_steps(Random(seed)):  # noqa: S311 - no secret
        containers = idle | shares.keys()
        existing = others | containers
        attributed = energy.update(
            {GPU: GpuEnergyReading(value, shares, containers)}, existing
        ).get(GPU)
        if value is None:
            assert attributed is None
            continue
        assert attributed is not None
        expected += 0 if counter is None else value if value < counter else value - counter
        counter = value
        for key, now in attributed.items():
            # A new series starts at 0: Prometheus sees its first increase.
            last = before.get(key, 0)
            assert now >= last or (now == 0 and key not in existing), key
            if key not in before:
                assert now == 0 or key == UNATTRIBUTED
            increases += now - last if now >= last else now
        assert increases == expected
        before = attributed
