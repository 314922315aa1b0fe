"""The numbers of containers from the engine's `stats` call, where cgroupfs is out of reach.

A call to an older engine (20.10) waits a second for the engine's own collector, whatever is asked
for; but all that wait at one time are served at once. So the calls go out side by side, in a
bounded number of threads, each with a deadline.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.errors import BadData, DeadlineExceeded, NotFound, SourceError
from exporter.sources.containers.replies import Identity, Stats, checked
from exporter.sources.containers.settings import Settings
from exporter.sources.containers.usage import Usage, working_set
from exporter.worker import Worker

if TYPE_CHECKING:
    from exporter.sources.containers.client import Client

MAX_CALLS = 32
# Of the poll's time: for one call, and for all of them.
_CALL_SHARE, _SHARE = 0.7, 0.85


class StatsReader:
    """Asks the engine for every container's numbers at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[Worker] = []
        self._client: Client | None = None

    async def read(
        self, containers: Sequence[Identity]
    ) -> tuple[dict[str, Usage], list[SourceError]]:
        """Usage by container ID, and what went wrong with single ones.

        Raises SourceError where the engine answered for none of them.
        """
        waiting = deque(containers)
        usages: dict[str, Usage] = {}
        problems: list[SourceError] = []
        if not waiting:
            return usages, problems
        while len(self._workers) < min(len(waiting), MAX_CALLS):
            self._workers.append(Worker(f"containers-stats-{len(self._workers)}"))
        free = [worker for worker in self._workers if not worker.stuck]
        if not free:
            raise DeadlineExceeded("every earlier call of the engine's stats still hangs")
        try:
            async with asyncio.timeout(self._settings.timeout * _SHARE):
                client = await free[0].run(self._connected)
                calls = (_serve(worker, client, waiting, usages, problems) for worker in free)
                await asyncio.gather(*calls)
        except TimeoutError:
            late = len(containers) - len(usages)
            problems.append(DeadlineExceeded(f"no stats of {late} of {len(containers)} in time"))
        if problems and not usages:
            self.close_client()  # the next poll negotiates anew
            raise problems[0]
        return usages, problems

    def close(self) -> None:
        """Let go of everything; never waits."""
        for worker in self._workers:
            worker.close()
        self.close_client()

    def close_client(self) -> None:
        """Close idle connections; calls under way end by their own deadline."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Client:
        from exporter.sources.containers.client import Client  # noqa: PLC0415 - loaded when needed

        if self._client is None:
            timeout = self._settings.timeout * _CALL_SHARE
            self._client = Client(self._settings, timeout, MAX_CALLS)
        return self._client


async def _serve(
    worker: Worker,
    client: Client,
    waiting: deque[Identity],
    usages: dict[str, Usage],
    problems: list[SourceError],
) -> None:
    """Make one call after another until nobody waits any more."""
    while waiting:
        one = waiting.popleft()
        try:
            found = await worker.run(partial(_stats, client, one))
        except NotFound:  # removed since it was listed
            continue
        except SourceError as problem:
            problems.append(problem)
        else:
            if found is not None:
                usages[one.id] = found


def _stats(client: Client, one: Identity) -> Usage | None:
    """One container's usage; None where it does not run any more. Raises SourceError."""
    from exporter.sources.containers.failures import translated  # noqa: PLC0415 - loaded when needed

    # Without it the engine takes two samples, a second apart, for a rate that nobody reads here.
    one_shot = {"one_shot": True} if _version(client.api_version) >= (1, 41) else {}
    with translated(f"stats of container {one.name}"):
        reply: Any = client.stats(one.id, stream=False, **one_shot)
    stats = checked(reply, Stats, f"stats of container {one.name}")
    if not stats.running:
        return None
    memory = stats.memory
    inactive = None
    if memory.stats is not None:
        inactive = memory.stats.inactive_v1
        if inactive is None:
            inactive = memory.stats.inactive_v2
    bound = memory.limit
    if bound is not None and not bound < 2**63:
        bound = None
    return Usage(
        cpu=stats.cpu.usage.total / 1e9,
        memory=memory.usage,
        working_set=working_set(memory.usage, inactive),
        # Without a limit the engine gives the host's memory in its place.
        memory_limit=int(bound) if bound is not None and one.limited else None,
    )


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor)
    except ValueError as error:
        raise BadData(f"{text!r} is not a version of the API") from error
