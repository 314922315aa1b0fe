#!/usr/bin/env bash
# Installs an old release of pynvml into .cache, for tests/sources/gpu/test_old_pynvml.py.
# With uv, which tests/model_server/servers/install.sh installs.
set -euo pipefail
cd "$(dirname "$0")/../../.."

version=12.535.161
folder=.cache/pynvml-$version
if [ ! -e "$folder/pynvml.py" ]; then
  rm -rf "$folder.new"
  .cache/model-servers/uv/bin/uv pip install --quiet --no-deps --python "${PYTHON:-python3}" \
    --target "$folder.new" "nvidia-ml-py==$version"
  rm -rf "$folder"
  mv "$folder.new" "$folder"
fi
