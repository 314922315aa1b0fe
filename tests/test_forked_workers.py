"""The workers report every result, also of a test that ends its worker."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import clean_interpreter
from tests.paths import ROOT

RESULTS = """
import os
import pytest

@pytest.fixture
def broken():
    yield
    raise ValueError("at the end")

def test_passes(tmp_path):
    assert not list(tmp_path.iterdir())

def test_fails():
    print("its output")
    assert os.getpid() == os.getppid()

@pytest.mark.skip(reason="a reason")
def test_is_skipped(): pass

def test_with_a_broken_fixture(broken): pass
"""
ENDS = """
import os

def test_ends_its_worker():
    os._exit(0)

def test_after_it(): pass
"""
SESSION = """
import os
import pytest

@pytest.fixture(scope="session")
def once():
    return os.urandom(8).hex()

@pytest.fixture(scope="module", autouse=True)
def of_the_module(once):
    with open("created", "a") as file:
        file.write(f"{os.getpid()} {once}\\n")
"""
STOPPED = """
import os
import signal
import time
from pathlib import Path

import pytest

from tests import forked_workers

forked_workers.HEEDED_AGAIN_AFTER = 1.0

@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    running = Path("running")
    running.write_text("")
    yield
    running.unlink()

def test_takes_long(engine):
    try:
        {action}
        time.sleep(100)
    except KeyboardInterrupt:  # as Python ignores one in a callback
        if not {ignored}:
            raise
    time.sleep(100)
"""
FAILS = """
import time
from pathlib import Path

def test_fails():
    deadline = time.monotonic() + 60
    while not Path("running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    raise ValueError("the first failure")
"""
LATE = """
class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        raise ValueError("when it is collected")

def test_leaves_a_cycle():
    Cycle()
"""


OPTIONS = (
    *("-p", "no:cacheprovider", "-p", "tests.forked_workers", "-q", "-ra"),
    *("-c", str(ROOT / "pyproject.toml")),
)
# For all runs: a first one, without a test, imports pytest and its plugins.
IMPORTS = f"import pytest; pytest.main([*{OPTIONS!r}, '--help'])"
PROGRAM = "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"


def run(folder: Path, *options: str, **sources: str) -> subprocess.CompletedProcess[str]:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")
    }
    with contextlib.chdir(folder):
        return clean_interpreter.run(
            PROGRAM,
            *(*OPTIONS, "--forks=2", "--rootdir", str(folder), *options, str(folder)),
            after=(IMPORTS,),
            environment=environment,
            timeout=100,
        )


def test_every_result_is_reported(tmp_path: Path) -> None:
    done = run(tmp_path, test_results=RESULTS, test_ends=ENDS, test_more=RESULTS, conftest=SESSION)
    assert done.returncode == 1
    summary = done.stdout.partition("short test summary")[2]
    lines = re.findall(r"(?m)^(FAILED|ERROR) (\S+?\.py::\w+) - (.*)", summary)
    for name in ("test_results.py", "test_more.py"):
        assert ("ERROR", f"{name}::test_with_a_broken_fixture", "ValueError: at the end") in lines
        assert ("FAILED", f"{name}::test_fails") in [line[:2] for line in lines]
    ended = {line[1:] for line in lines if line[1].startswith("test_ends.py")}
    assert ended == {
        ("test_ends.py::test_ends_its_worker", "the worker ended during this test"),
        ("test_ends.py::test_after_it", "not run: its worker has ended"),
    }
    assert "4 failed, 4 passed, 2 skipped, 2 errors" in summary
    assert "its output" in done.stdout
    assert "a reason" in summary
    # A session fixture is created once for each group: here, a file.
    created = (tmp_path / "created").read_text().split()
    assert len(created) == 2 * 3
    assert len(set(created[::2])) == 2
    assert len(set(created[1::2])) == 3


def test_an_exception_after_the_last_test_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, test_late=LATE)
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "exit codes of the workers: [1]" in done.stdout
    assert "when it is collected" in done.stderr


def test_the_first_failure_ends_the_fixtures_of_every_worker(tmp_path: Path) -> None:
    done = run(
        tmp_path, "-x", test_stopped=STOPPED.format(action="", ignored=False), test_fails=FAILS
    )
    assert done.returncode == 1
    assert "stopping after 1 failures" in done.stdout
    assert "the first failure" in done.stdout
    assert not (tmp_path / "running").exists()


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_ends_the_fixtures_of_every_worker(tmp_path: Path, ignored: bool) -> None:
    action = "os.kill(os.getppid(), signal.SIGINT)"
    done = run(tmp_path, test_stopped=STOPPED.format(action=action, ignored=ignored))
    assert done.returncode == 2
    assert "KeyboardInterrupt" in done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "running").exists()
