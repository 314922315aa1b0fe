"""Whose energy a GPU has used: an estimate, from its energy counter and its users' shares of time.

The law: what all names of a GPU get is what its counter has risen by, to the millijoule. Hence the
counters are integers (NVML's unit is the millijoule), and what does not divide is dealt out by the
largest remainders. A counter that falls began anew (the driver was loaded again): as in Prometheus,
it has then risen by what it says. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from exporter.joins.container_names import ContainerKey

UNATTRIBUTED: ContainerKey = ("", "")
"""The idle time, what is outside of any container, and what cannot be known."""

# Shares are told in whole percent; so fine are they taken.
_WHOLE = 1_000_000
# Nobody has so many processes that their shares add up to this; nor to what is no number.
_ABSURD = 1e6
# GPUs that are away and yet remembered: more are no hardware.
_MOST_AWAY = 256


@dataclass(frozen=True, slots=True)
class GpuEnergyReading:
    """One GPU in one reading.

    counter: its energy so far in millijoules; None where it does not say.
    shares: of the SMs' time, 0 to 1, by whose; who is not in it has none that is known.
    names: who is to have a series.
    """

    counter: int | None
    shares: Mapping[ContainerKey, float] = field(default_factory=dict)
    names: Collection[ContainerKey] = ()


@dataclass(slots=True)
class _Account:
    """counter: when it was seen last. booked: millijoules so far. away: not seen of late."""

    counter: int
    booked: dict[ContainerKey, int]
    away: bool = False


def split(amount: int, shares: Mapping[ContainerKey, float]) -> dict[ContainerKey, int]:
    """Divide millijoules by shares of the whole; what nobody had is NOBODY's.

    Shares that add up to more than the whole (samples of different moments) are parts of their sum.
    """
    weights = {who: round(share * _WHOLE) for who, share in shares.items() if 0 < share < _ABSURD}
    weights[UNATTRIBUTED] = weights.get(UNATTRIBUTED, 0) + max(0, _WHOLE - sum(weights.values()))
    whole = sum(weights.values())
    parts = {who: amount * weight // whole for who, weight in weights.items()}
    left = amount - sum(parts.values())
    by_remainder = sorted(weights, key=lambda who: (-(amount * weights[who] % whole), who))
    for who in by_remainder[:left]:
        parts[who] += 1
    return parts


class GpuEnergy:
    """The accounts of all GPUs by UUID, carried on from reading to reading.

    A name begins at 0, and gets nothing of what was used before it was first shown: Prometheus
    would not see that rise. What a name that is gone had stays booked as its own. What was used
    while a GPU was away, or before its counter began anew, is NOBODY's: nobody can say whose.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def follow(
        self, gpus: Mapping[str, GpuEnergyReading], living: Collection[ContainerKey]
    ) -> dict[str, dict[ContainerKey, int]]:
        """Millijoules by GPU and name, once the GPUs' latest readings are booked.

        The same readings again change nothing. living: who keeps a series that it has.
        A GPU that does not say its energy is not in it.
        """
        for uuid, account in self._accounts.items():
            if uuid not in gpus or gpus[uuid].counter is None:
                account.away = True
        shown = {}
        for uuid, now in gpus.items():
            if now.counter is not None:
                shown[uuid] = dict(self._book(uuid, now.counter, now, living))
        away = [uuid for uuid, account in self._accounts.items() if account.away]
        for uuid in away[:-_MOST_AWAY]:
            del self._accounts[uuid]
        return shown

    def _book(
        self, uuid: str, counter: int, now: GpuEnergyReading, living: Collection[ContainerKey]
    ) -> Mapping[ContainerKey, int]:
        # Put last: the accounts stay in the order in which they were used.
        account = self._accounts.pop(uuid, None) or _Account(counter, {UNATTRIBUTED: 0})
        self._accounts[uuid] = account
        began_anew = counter < account.counter
        risen = counter if began_anew else counter - account.counter
        shares: dict[ContainerKey, float] = {}
        if not began_anew and not account.away:
            for who, share in now.shares.items():
                whose = who if who in account.booked else UNATTRIBUTED
                shares[whose] = shares.get(whose, 0.0) + share
        for who, part in split(risen, shares).items():
            account.booked[who] += part
        account.counter, account.away = counter, False
        stay = {UNATTRIBUTED, *now.names, *(who for who in account.booked if who in living)}
        account.booked = {
            **{who: part for who, part in account.booked.items() if who in stay},
            **{who: 0 for who in now.names if who not in account.booked},
        }
        return account.booked
