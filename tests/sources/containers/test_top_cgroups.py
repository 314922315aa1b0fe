"""The cgroups at the top of the hierarchy, from fake trees with known values."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.faults import FaultTotals
from exporter.sources.containers.cgroup.top_cgroups import TopCgroups
from exporter.sources.containers.reading import ContainerUsage
from tests.fakes.cgroup_trees import Tree


def read(tree: Tree) -> tuple[dict[str, ContainerUsage], FaultTotals]:
    faults = FaultTotals()
    rows = TopCgroups(tree.root).read(faults)
    assert len({row.labels for row in rows}) == len(rows)
    return {row.labels[0]: row.usage for row in rows}, faults


@pytest.fixture(params=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    add = tree.v2_full if request.param == "v2" else tree.v1_full
    add("system.slice")
    add("docker/aaaa")
    return tree


def memory(tree: Tree) -> Path:
    return next(path for path in (tree.root / "memory", tree.root) if path.is_dir())


def test_values(tree: Tree) -> None:
    usages, faults = read(tree)
    assert usages.keys() == {"/system.slice", "/docker"}
    usage = usages["/system.slice"]
    assert (usage.cpu_usage, usage.memory, usage.working_set) == (1.234567, 10_000, 7_000)
    assert (usage.rss, usage.cache, usage.mapped_file) == (4096, 8192, 2048)
    assert usages["/docker"].memory is None, "only what is there"
    assert not faults.problems()


def test_a_strange_file_costs_only_its_own_values(tree: Tree) -> None:
    (memory(tree) / "system.slice" / "memory.stat").write_text("\xff\nanon x\ntotal_rss x\n")
    usages, faults = read(tree)
    usage = usages["/system.slice"]
    assert (usage.cpu_usage, usage.memory, usage.rss) == (1.234567, 10_000, None)
    (problem,) = faults.problems()
    assert "memory.stat" in str(problem)


def test_links_are_not_followed_and_names_are_bounded(tree: Tree) -> None:
    folder = memory(tree)
    (folder / "link").symlink_to(folder / "system.slice")
    for number in range(100):
        (folder / f"a{number:03}").mkdir()
    usages, _ = read(tree)
    assert "/link" not in usages
    assert len(usages) == 64


def test_no_cgroups(tmp_path: Path) -> None:
    assert read(Tree(tmp_path))[0] == {}
