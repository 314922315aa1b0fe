"""Names that several upstreams claim: the loser's families are refused, and counted."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest

from exporter.exposition.upstream_families import add_families
from exporter.model import Health, Reading, Rendered, SourceStatus, Target, UpstreamFamily
from exporter.settings import Duration
from exporter.sources.triton.reading import ServerAddressRow
from exporter.store import Store
from exporter.upstream.name_conflicts import Claimed, NameConflicts
from tests.fakes.triton import FakeTriton, http_response
from tests.upstream.test_fetching import context, source
from tests.waiting import until_async


def family(name: str, type_: str) -> UpstreamFamily:
    return UpstreamFamily(name, type_, None, b"", 1, openmetrics=True)


class Claims:
    """NameConflicts at a time. CONFIGURED, DISCOVERED: precedences."""

    def __init__(self, native: frozenset[str] = frozenset()) -> None:
        self._conflicts = NameConflicts(lambda: native)
        self.now = 0.0

    def __call__(self, upstream: str, precedence: int, *families: UpstreamFamily) -> Claimed:
        return self._conflicts.claim(upstream, precedence, families, self.now, self.now + 10)


CONFIGURED, DISCOVERED = 0, 1
COUNTER, GAUGE = family("a_total", "counter"), family("a_total", "gauge")


def test_of_equals_the_first_to_claim_a_name_keeps_it_until_its_claim_expires() -> None:
    claim = Claims()
    assert claim("one", DISCOVERED, COUNTER).merged == (COUNTER,)
    claim.now = 1
    two = claim("two", DISCOVERED, GAUGE)
    assert (two.merged, two.refused) == ((), (GAUGE,))
    assert claim("three", DISCOVERED, COUNTER).merged == (COUNTER,), "the same type"
    claim.now = 12
    assert claim("two", DISCOVERED, GAUGE).merged == (GAUGE,), "expired"
    claim.now = 13
    assert claim("one", DISCOVERED, COUNTER).refused == (COUNTER,)


def test_a_histogram_claims_the_names_of_its_samples() -> None:
    claim = Claims(native=frozenset({"ours_sum"}))
    histogram, squatter = family("x", "histogram"), family("x_bucket", "gauge")
    assert claim("one", DISCOVERED, squatter).merged
    assert claim("two", DISCOVERED, histogram).refused
    ours = family("ours", "summary")
    assert claim("two", CONFIGURED, ours).refused, "the exporter's own name"
    assert claim("three", CONFIGURED, histogram).merged


def test_a_configured_upstream_takes_a_name_at_once() -> None:
    claim = Claims()
    squatter, other = family("x_bucket", "gauge"), family("other", "gauge")
    squatted = claim("squatter", DISCOVERED, squatter, other)
    assert not squatted.withdrawn
    histogram = family("x", "histogram")
    honest = claim("honest", CONFIGURED, histogram)
    assert honest.merged == (histogram,)
    assert squatted.withdrawn == {"x_bucket"}, "of the reading that is published"
    again = claim("squatter", DISCOVERED, squatter, other)
    assert (again.merged, again.refused) == ((other,), (squatter,))
    assert again.withdrawn == {"x_bucket"}
    assert claim("third", DISCOVERED, other).merged, "the same type: no conflict"
    assert not honest.withdrawn


def test_configured_upstreams_take_names_in_the_order_of_the_settings() -> None:
    claim = Claims()
    assert claim("second", 1, GAUGE).merged
    assert claim("first", 0, COUNTER).merged
    assert claim("second", 1, GAUGE).refused
    assert claim("discovered", 2, COUNTER).merged


def test_a_contested_name_stays_with_the_winner_while_it_restarts() -> None:
    claim = Claims()
    claim("squatter", DISCOVERED, GAUGE)
    claim("honest", CONFIGURED, COUNTER)
    for _ in range(3):
        assert claim("squatter", DISCOVERED, GAUGE).refused
        claim.now += 100  # longer than a claim lasts
        assert claim("squatter", DISCOVERED, GAUGE).refused, "the honest one is down"
        assert claim("honest", CONFIGURED).merged == (), "up, but without the family yet"
        assert claim("squatter", DISCOVERED, GAUGE).refused
        assert claim("honest", CONFIGURED, COUNTER).merged
    claim("honest", CONFIGURED, GAUGE)  # another version, with another type
    assert claim("squatter", DISCOVERED, GAUGE).merged == (GAUGE,)
    assert claim("third", DISCOVERED, COUNTER).refused


def test_a_name_contested_while_the_configured_upstream_is_down_changes_hands_once() -> None:
    claim = Claims()
    squatted = claim("squatter", DISCOVERED, GAUGE)
    assert squatted.merged
    claim("honest", CONFIGURED, COUNTER)
    assert squatted.withdrawn == {"a_total"}
    claim.now = 100
    assert claim("squatter", DISCOVERED, GAUGE).refused


def test_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.upstream.name_conflicts._MAX_DECISIONS", 10)
    claim = Claims()
    names = [f"a{number}" for number in range(20)]
    claim("honest", CONFIGURED, *(family(name, "counter") for name in names))
    refused = claim("squatter", DISCOVERED, *(family(name, "gauge") for name in names)).refused
    assert len(refused) == 20
    claim.now = 100
    merged = claim("squatter", DISCOVERED, *(family(name, "gauge") for name in names)).merged
    assert len(merged) >= 10


def test_the_losers_errors_tell() -> None:
    """One upstream exports another's name with another type, and comes first in the settings."""

    async def scenario() -> None:
        async with (
            FakeTriton() as squatter,
            FakeTriton() as honest,
            source(url=(f"squatter={squatter.url}", f"honest={honest.url}")) as upstream,
        ):
            squatter.responses["/metrics"] = http_response("# TYPE requests gauge\nrequests 1\n")
            honest.responses["/metrics"] = http_response(
                "# TYPE requests counter\nrequests 1\n# TYPE other gauge\nother 1\n"
            )
            first, second = await upstream.discover()
            assert [one.name for one in (await first.read()).families] == ["requests"]
            for reads in (1, 2):
                reading = await second.read()
                assert [one.name for one in reading.families] == ["other"]
                (problem,) = reading.problems
                assert "1 conflict (requests)" in problem.message
                (errors,) = second.counts()  # type: ignore[attr-defined]  # an UpstreamTarget
                assert errors.errors == {"conflict": reads}, "counted at each scrape"

    asyncio.run(scenario())


def published(store: Store, target: Target, reading: Reading) -> None:
    rendered = add_families(Rendered({}, 0), reading.families, max_series=1000)
    store.publish("upstream", target.name, reading, rendered, expires=sys.maxsize)


def types(store: Store) -> dict[tuple[str, str], str]:
    """Returns the types of the exposed families by upstream and name."""
    return {
        (
            family.lines.decode().partition('upstream="')[2].partition('"')[0],
            family.name,
        ): family.type
        for family in store.families("upstream")
    }


def test_a_page_in_a_container_does_not_take_the_name_of_a_configured_one() -> None:
    """The configured upstream responds later: at the start, and again after a restart."""

    async def scenario() -> None:
        row = ServerAddressRow(("squatter",), "127.0.0.1", 1)
        async with FakeTriton() as squatter, FakeTriton() as honest:
            squatter.responses["/metrics"] = http_response(
                "# TYPE requests gauge\nrequests 1\nnv_x 1\n"
            )
            page = http_response("# TYPE requests counter\nrequests 1\n")
            asked = asyncio.Event()

            async def late(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await asked.wait()
                writer.write(page)
                await writer.drain()

            honest.responses["/metrics"] = late
            within = context(replace(row, metrics_url=f"http://{squatter.url}/metrics"))
            store = Store()
            store.set_source_status(SourceStatus("upstream", "on", wanted=True, health=Health()))
            async with source(within, url=(f"honest={honest.url}",), timeout=Duration(20)) as all_:
                configured, discovered = await all_.discover()
                read = asyncio.create_task(configured.read())
                first = asyncio.create_task(discovered.read())
                await until_async(lambda: honest.requests, "a request to the configured one")
                assert len(squatter.requests) == 1, "only confirmed as a Triton server's page"
                asked.set()
                published(store, discovered, await first)
                published(store, configured, await read)
                assert types(store) == {
                    ("honest", "requests"): "counter",
                    ("squatter", "nv_x"): "untyped",
                }
                honest.responses["/metrics"] = page
                for _ in range(2):
                    for target in (discovered, configured):
                        published(store, target, await target.read())
                        assert types(store)["honest", "requests"] == "counter"
                        assert ("squatter", "requests") not in types(store)
                (errors,) = discovered.counts()  # type: ignore[attr-defined]  # an UpstreamTarget
                assert errors.errors == {"conflict": 3}

    asyncio.run(scenario())


def test_a_family_leaves_the_page_when_a_configured_upstream_takes_its_name() -> None:
    async def scenario() -> None:
        row = ServerAddressRow(("squatter",), "127.0.0.1", 1)
        async with FakeTriton() as squatter, FakeTriton() as honest:
            squatter.responses["/metrics"] = http_response(
                "# TYPE requests gauge\nrequests 1\nnv_x 1\n"
            )
            honest.responses["/metrics"] = http_response("other 1\n")
            within = context(replace(row, metrics_url=f"http://{squatter.url}/metrics"))
            store = Store()
            store.set_source_status(SourceStatus("upstream", "on", wanted=True, health=Health()))
            async with source(within, url=(f"honest={honest.url}",)) as upstream:
                configured, discovered = await upstream.discover()
                for target in (configured, discovered):
                    published(store, target, await target.read())
                assert types(store)["squatter", "requests"] == "gauge"
                honest.responses["/metrics"] = http_response(
                    "# TYPE requests counter\nrequests 1\n"
                )
                published(store, configured, await configured.read())
                assert types(store) == {
                    ("honest", "requests"): "counter",
                    ("squatter", "nv_x"): "untyped",
                }, "before the next read of the other"

    asyncio.run(scenario())
