"""Names that several upstreams claim: the loser's families are refused, and counted."""

from __future__ import annotations

import asyncio

from exporter.model import UpstreamFamily
from exporter.upstream.name_conflicts import NameConflicts
from tests.fakes.triton import FakeTriton, http_response
from tests.upstream.test_fetching import source


def family(name: str, type_: str) -> UpstreamFamily:
    return UpstreamFamily(name, type_, None, b"", 1, openmetrics=True)


def test_the_first_to_claim_a_name_keeps_it_until_its_claim_expires() -> None:
    conflicts = NameConflicts(frozenset)
    counter, gauge = family("a_total", "counter"), family("a_total", "gauge")
    assert conflicts.claim("one", [counter], 0, 10) == ((counter,), [])
    assert conflicts.claim("two", [gauge], 1, 11) == ((), [gauge])
    assert conflicts.claim("three", [counter], 1, 11) == ((counter,), []), "the same type"
    assert conflicts.claim("two", [gauge], 12, 22) == ((gauge,), []), "expired"
    assert conflicts.claim("one", [counter], 13, 23) == ((), [counter])


def test_a_histogram_claims_the_names_of_its_samples() -> None:
    conflicts = NameConflicts(lambda: frozenset({"ours_sum"}))
    histogram, squatter = family("x", "histogram"), family("x_bucket", "gauge")
    assert conflicts.claim("one", [squatter], 0, 10)[1] == []
    assert conflicts.claim("two", [histogram], 0, 10)[1] == [histogram]
    ours = family("ours", "summary")
    assert conflicts.claim("two", [ours], 0, 10)[1] == [ours], "the exporter's own name"


def test_the_losers_errors_tell() -> None:
    """One upstream exports another's name with another type, before it or after it."""

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
