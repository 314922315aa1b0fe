#!/usr/bin/env bash
# Installs an old release of pynvml beside the current one, for tests/sources/gpu/test_old_pynvml.py.
set -euo pipefail
cd "$(dirname "$0")/../../.."

version=12.535.161
folder=.cache/pynvml-$version
if [ ! -e "$folder/pynvml.py" ]; then
  rm -rf "$folder.new"
  .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --target "$folder.new" \
    "nvidia-ml-py==$version"
  rm -rf "$folder"
  mv "$folder.new" "$folder"
fi
