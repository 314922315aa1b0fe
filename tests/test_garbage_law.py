"""One strange line, key or number costs the series that depend on it, and nothing else.

The short form takes a sample of all damages, the same in every run. `make garbage` runs the long
form: random ones for GARBAGE_SECONDS, of all fixtures or those whose name contains GARBAGE_ONLY.
"""

from __future__ import annotations

import ast
import asyncio
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.sources.containers.cgroup.files import CGROUP_FILES
from exporter.sources.containers.engine.api_types import (
    ContainerInspect,
    ContainerSummary,
    Stats,
    Version,
)
from exporter.sources.containers.engine.disk_usage import DiskUsageReply
from exporter.sources.triton.schema import IndexEntry, ModelConfig, ModelStats, ServerMetadata
from tests.garbage import cgroups, engine, triton
from tests.garbage.law import Fixture
from tests.garbage.mutations import Damage, Kind
from tests.garbage.readers import EXEMPT, READERS, fixtures
from tests.paths import ROOT

SECONDS = float(os.environ.get("GARBAGE_SECONDS", "0"))
ONLY = os.environ.get("GARBAGE_ONLY", "")
# Of each fixture in the short form: its parts, and the damages of each of them.
PARTS, DAMAGES = 8, 5


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Fixture]]:
    loop = asyncio.new_event_loop()
    folder = tmp_path_factory.mktemp("garbage")
    yield [each for each in fixtures(folder, loop) if ONLY in each.name]
    loop.close()


def sample(items: list[Any], count: int, choice: random.Random) -> list[Any]:
    return items if len(items) <= count else choice.sample(items, count)


def test_a_damage_costs_what_depends_on_it(readers: list[Fixture]) -> None:
    failures: list[str] = []
    for fixture in readers:
        choice = random.Random(fixture.name)  # noqa: S311 - the same sample in every run
        for part in sample(fixture.parts(), PARTS, choice):
            for damage in sample(list(fixture.damages(part)), DAMAGES, choice):
                check(fixture, damage, failures)
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures[:20])


@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.skipif(not SECONDS, reason="the long form, by GARBAGE_SECONDS")
def test_any_damage_costs_what_depends_on_it(readers: list[Fixture]) -> None:
    failures: list[str] = []
    seed, end, count = random.randrange(2**32), time.monotonic() + SECONDS, 0  # noqa: S311 - no secret
    choice = random.Random(seed)  # noqa: S311 - as above
    while time.monotonic() < end and len(failures) < 50:
        fixture = choice.choice(readers)
        for damage in fixture.damages(choice.choice(fixture.parts())):
            check(fixture, damage, failures)
            count += 1
    sys.stdout.write(f"{count} damages, seed {seed}\n")
    assert not failures, f"{len(failures)}, seed {seed}:\n" + "\n".join(failures[:20])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_bytes_cost_what_depends_on_the_line(
    readers: list[Fixture], data: st.DataObject
) -> None:
    texts = [each for each in readers if isinstance(each.content, bytes)]
    if not texts:  # with GARBAGE_ONLY
        return
    fixture = texts[data.draw(st.integers(0, len(texts) - 1))]  # by number: its repr is long
    part = data.draw(st.sampled_from(fixture.parts()))
    lines = fixture.content.split(b"\n")
    start = data.draw(st.integers(0, len(lines[part])))
    noise = data.draw(st.binary(min_size=1, max_size=30)).replace(b"\n", b"\r")
    length = data.draw(st.integers(0, len(lines[part])))
    lines[part] = lines[part][:start] + noise + lines[part][start + length :]
    fixture.check(Damage(part, Kind.CHARACTER, repr(lines[part]), b"\n".join(lines)))


def check(fixture: Fixture, damage: Any, failures: list[str]) -> None:
    try:
        fixture.check(damage)
    except AssertionError as error:
        failures.append(str(error))


# -- each reader has a fixture --

# Calls that read what others write, or decode it.
_CALLS = {
    *("read_kernel_file", "kernel_text", "read_on", "pread", "open", "_open"),
    *("decode", "decode_leniently", "decode_reply", "raw_call", "call", "try_call"),
    "read_fields",
}
# Without such a text, a module need not be parsed.
_CALL = re.compile(rf"\b({'|'.join(_CALLS)})\s*\(")


def calls(source: str) -> set[str]:
    """Returns the names of the functions and methods that a module calls."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                # `text.decode()` decodes a string.
                if function.attr == "decode" and not isinstance(function.value, ast.Attribute):
                    continue
                names.add(function.attr)
            elif isinstance(function, ast.Name):
                names.add(function.id)
    return names


def test_every_module_that_reads_has_a_fixture(readers: list[Fixture]) -> None:
    reading = set()
    package = ROOT / "exporter"
    for path in (*(package / "sources").rglob("*.py"), *(package / "traces").rglob("*.py")):
        source = path.read_text()
        if _CALL.search(source) and calls(source) & _CALLS:
            reading.add(".".join(path.relative_to(ROOT / "exporter").with_suffix("").parts))
    known = READERS.keys() | EXEMPT.keys()
    assert not reading - known, "a reader needs a fixture in tests/garbage, or a reason"
    assert not known - reading, "these read nothing"
    if not ONLY:
        names = [fixture.name for fixture in readers]
        for module, start in READERS.items():
            assert any(name.startswith(start) for name in names), module


def test_every_cgroup_file_has_a_fixture(tmp_path: Path) -> None:
    present: dict[int, set[str]] = {1: set(), 2: set()}
    for host in cgroups.hosts(tmp_path):
        host.write()
        present[host.version] |= {file.name for file in host.files()}
    for version, files in CGROUP_FILES.items():
        for file in files:
            assert file.name in present[version], f"{file.name} of v{version}"
            if file.replacement is not None:
                assert file.replacement.name in present[version], file.replacement.name


def missing_fields(struct: Any, document: Any, path: str = "") -> list[str]:
    """Returns the fields of a struct, and of those inside, that a document has nowhere."""
    if isinstance(document, list):
        return [] if not document else missing_fields(struct, document[0], path)
    missing = []
    for field in msgspec.structs.fields(struct):
        name = f"{path}.{field.encode_name}"
        if not isinstance(document, dict) or field.encode_name not in document:
            missing.append(name)
            continue
        for inner in structs_of(field.type):
            value = document[field.encode_name]
            if isinstance(value, dict) and field.encode_name in ("networks", "response_stats"):
                value = next(iter(value.values()))  # by name
            missing += missing_fields(inner, value, name)
    return missing


def structs_of(type: Any) -> list[Any]:
    """Returns the structs inside of a type."""
    if isinstance(type, msgspec.StructMeta):
        return [type]
    return [struct for argument in get_args(type) for struct in structs_of(argument)]


@pytest.mark.parametrize(
    ("struct", "document"),
    [
        (ContainerSummary, engine.listed(1)),
        (ContainerInspect, engine.inspected(1)),
        (Stats, engine.stats(1)),
        (Version, engine.replies()["version"]),
        (DiskUsageReply, engine.DISK_USAGE),
        (ModelStats, triton.documents()["statistics"]["model_stats"]),
        (IndexEntry, triton.documents()["index"]),
        (ServerMetadata, triton.documents()["metadata"]),
        (ModelConfig, triton.documents()["config"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_every_field_of_a_reply_has_a_fixture(struct: Any, document: Any) -> None:
    # Either an ensemble, or an instance group; parameters are by name.
    allowed = {".ensemble_scheduling", ".parameters.string_value"}
    assert not set(missing_fields(struct, document)) - allowed
