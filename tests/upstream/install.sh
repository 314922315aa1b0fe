#!/bin/sh
# Installs a FastAPI service's dependencies into .cache/fastapi of the checkout, unless present.
#   PYTHON  interpreter for the virtual environment (default: python3)
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.cache/fastapi
done=$venv/.installed-1
[ -e "$done" ] && exit 0

rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    fastapi==0.165.0 uvicorn==0.54.0 prometheus-fastapi-instrumentator==8.1.0 prometheus-client==0.26.0
touch "$done"
