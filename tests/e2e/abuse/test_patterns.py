"""A tenant chooses a container's name, image and labels; the operator's expressions match them."""

from __future__ import annotations

from pathlib import Path

from tests.daemon import off
from tests.e2e.abuse.harness import attack
from tests.fakes.container_engine import FakeEngine, http_reply, summary
from tests.waiting import until

ALONE = (*off("gpu", "triton", "joins", "upstream", "host"), "--containers.interval=200ms")


def test_names_that_an_expression_nearly_matches(tmp_path: Path) -> None:
    engine = FakeEngine(20)
    names = [f"{'a' * (40 + number)}!" for number in range(20)]
    engine.replies["/containers/json"] = http_reply(
        [
            summary(number + 1, name, Labels={"k": name}, Image=name)
            for number, name in enumerate(names)
        ]
    )
    with (
        engine.serving(),
        attack(
            "container names against nested quantifiers",
            tmp_path,
            *ALONE,
            "--containers.name-exclude=([a-z0-9]+-?)+",
            "--containers.label-exclude=k=([a-z0-9]+-?)+",
            "--containers.image-exclude=(a|a)*",
            environment={"DOCKER_HOST": engine.url},
            bound="RE2, linear in the name",
        ) as current,
    ):
        daemon = current.daemon
        until(lambda: daemon.value("container_engine_up") == 1, "the engine to be read")
        lists = engine.count("/containers/json")
        until(lambda: engine.count("/containers/json") > lists + 1, "more lists")
    # `attack` fails unless SIGTERM is handled.
