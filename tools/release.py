"""Sets the version of a release: `python -m tools.release VERSION`.

The version stands in exporter/__init__.py, and in the names of the image: Dockerfile, compose,
manifests, chart and docs/install.md. The section "Unreleased" of CHANGELOG.md becomes that of the
release, and docs/metrics.json is kept as docs/releases/VERSION.json, with which later versions are
compared (tests/test_promises.py).
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import shutil
from pathlib import Path

from exporter import __version__

ROOT = Path(__file__).parents[1]
# By file, the number of times that it has the version.
VERSION_FILES = {
    "exporter/__init__.py": 1,
    "Dockerfile": 1,
    "deploy/compose/.env.example": 1,
    "deploy/compose/compose.yaml": 1,
    "deploy/helm/inference-exporter/Chart.yaml": 2,
    "deploy/helm/inference-exporter/ci/full-values.yaml": 1,
    "deploy/kubernetes/daemonset.yaml": 1,
    "deploy/kubernetes/sidecar.yaml": 1,
    "docs/install.md": 2,
}


def release(root: Path, old: str, new: str, date: dt.date) -> None:
    """Changes the files. Raises ValueError if one of them is not as expected."""
    changed = {}
    for name, count in VERSION_FILES.items():
        before = (root / name).read_text()
        if before.count(old) != count:
            raise ValueError(
                f"{name}: has the version {old} {before.count(old)} times, not {count}"
            )
        changed[name] = before.replace(old, new)
    changelog = (root / "CHANGELOG.md").read_text()
    if not changelog.partition("## Unreleased\n")[2].partition("\n## ")[0].strip():
        raise ValueError("CHANGELOG.md: nothing is unreleased")
    changed["CHANGELOG.md"] = changelog.replace(
        "## Unreleased\n", f"## Unreleased\n\n## {new} / {date}\n", 1
    )
    for name, after in changed.items():
        (root / name).write_text(after)
    shutil.copyfile(root / "docs/metrics.json", root / f"docs/releases/{new}.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Sets the version of a release.")
    parser.add_argument("version", help="such as 1.2.0")
    version = parser.parse_args().version
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        parser.error(f"{version!r} is not a version such as 1.2.0")
    try:
        release(ROOT, __version__, version, dt.datetime.now(dt.UTC).date())
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
