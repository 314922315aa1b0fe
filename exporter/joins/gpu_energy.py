"""GPU energy by container: an estimate from the GPU's energy counter and SM utilization shares.

Invariant: the increases of all series of a GPU add up to the increase of its counter, to the
millijoule (NVML's unit). Hence the counters are integers, and the remainders of a division are
distributed by the largest-remainder method. If the GPU's counter falls (the driver was reloaded),
it was reset to 0: as in Prometheus, its increase is then its value. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from exporter.joins.container_names import NO_CONTAINER, ContainerKey

UNATTRIBUTED: ContainerKey = NO_CONTAINER
"""Energy of idle time, of processes outside of containers, and that cannot be attributed.

The key of processes outside of containers, so that their share is counted here.
"""

Weighted = TypeVar("Weighted", bound=tuple[object, ...])

# Shares are scaled to integers; NVML reports them in percent.
_SHARE_SCALE = 1_000_000
# Shares at or above this are invalid and ignored; so are NaN and infinity.
_MAX_SHARE = 1e6
# Stale accounts that are kept: of GPUs that may return.
_MAX_STALE_ACCOUNTS = 256


@dataclass(frozen=True, slots=True)
class GpuEnergyReading:
    """A reading of one GPU.

    counter: energy in millijoules; None if not reported. shares: of the SMs' time, 0 to 1, of the
    containers whose share is known. containers: those that get a series.
    """

    counter: int | None
    shares: Mapping[ContainerKey, float] = field(default_factory=dict)
    containers: Collection[ContainerKey] = ()


@dataclass(slots=True)
class _Account:
    """The energy of one GPU.

    counter: the last value of the GPU's counter. attributed: millijoules so far. stale: whether the
    last readings had no counter.
    """

    counter: int
    attributed: dict[ContainerKey, int]
    stale: bool = False


def split_energy(increase: int, shares: Mapping[ContainerKey, float]) -> dict[ContainerKey, int]:
    """Divides an increase in millijoules by the shares, of 1 in all; the rest is UNATTRIBUTED.

    Shares that add up to more than 1 (samples of different times) are divided by their sum.
    """
    weights = {
        key: round(share * _SHARE_SCALE) for key, share in shares.items() if 0 < share < _MAX_SHARE
    }
    unused = max(0, _SHARE_SCALE - sum(weights.values()))
    weights[UNATTRIBUTED] = weights.get(UNATTRIBUTED, 0) + unused
    return divide(increase, weights)


def divide(increase: int, weights: Mapping[Weighted, int]) -> dict[Weighted, int]:
    """Divides an increase by weights, of more than 0 in all; the parts add up to it exactly."""
    total = sum(weights.values())
    parts = {key: increase * weight // total for key, weight in weights.items()}
    rest = increase - sum(parts.values())
    if rest:
        remainders = [(-(increase * weight % total), key) for key, weight in weights.items()]
        remainders.sort()
        for _, key in remainders[:rest]:
            parts[key] += 1
    return parts


class GpuEnergy:
    """The energy accounts of all GPUs, by UUID.

    A container's counter starts at 0 when its series is first exposed: Prometheus would not see an
    increase before that. The energy of a container that is gone is not attributed again. Energy
    used while a GPU had no counter, or before its counter was reset, is UNATTRIBUTED.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def update(
        self, gpus: Mapping[str, GpuEnergyReading], existing: Container[ContainerKey]
    ) -> dict[str, dict[ContainerKey, int]]:
        """Applies the GPUs' latest readings; returns millijoules by GPU and container.

        Applying the same readings again changes nothing. existing: containers whose existing series
        continue. A GPU without a counter is not in the result.
        """
        for uuid, account in self._accounts.items():
            if uuid not in gpus or gpus[uuid].counter is None:
                account.stale = True
        energy = {}
        for uuid, reading in gpus.items():
            if reading.counter is not None:
                energy[uuid] = self._attribute(uuid, reading.counter, reading, existing).copy()
        stale = [uuid for uuid, account in self._accounts.items() if account.stale]
        for uuid in stale[:-_MAX_STALE_ACCOUNTS]:
            del self._accounts[uuid]
        return energy

    def _attribute(
        self,
        uuid: str,
        counter: int,
        reading: GpuEnergyReading,
        existing: Container[ContainerKey],
    ) -> dict[ContainerKey, int]:
        # Inserted last: the accounts are in the order of their last use.
        account = self._accounts.pop(uuid, None) or _Account(counter, {UNATTRIBUTED: 0})
        self._accounts[uuid] = account
        reset = counter < account.counter
        increase = counter if reset else counter - account.counter
        shares: dict[ContainerKey, float] = {}
        if not reset and not account.stale:
            for key, share in reading.shares.items():
                account_key = key if key in account.attributed else UNATTRIBUTED
                shares[account_key] = shares.get(account_key, 0.0) + share
        for key, part in split_energy(increase, shares).items():
            account.attributed[key] += part
        account.counter, account.stale = counter, False
        for key in [
            key
            for key in account.attributed
            if key not in existing and key not in reading.containers and key != UNATTRIBUTED
        ]:
            del account.attributed[key]
        for key in reading.containers:
            account.attributed.setdefault(key, 0)
        return account.attributed
