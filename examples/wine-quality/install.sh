#!/bin/sh
# Installs the wine service's dependencies into .cache/wine-quality, and trains its model into
# .cache/wine-quality/model; does nothing if that was done. `install.sh locust` installs Locust, too.
#   PYTHON  the interpreter that creates the environment (default: python3)
# uv installs the listed versions in seconds, pip in a minute.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.cache/wine-quality
tools=$root/.cache/uv-0.13.8
python=${PYTHON:-python3}

uv() {
    if [ ! -x "$tools/bin/uv" ]; then
        "$python" -m venv "$tools"
        "$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.8
    fi
    "$tools/bin/uv" "$@"
}

if ! cmp -s "$here/requirements.txt" "$venv/.installed"; then
    rm -rf "$venv"
    uv venv --quiet --python "$python" "$venv"
    uv pip install --quiet --python "$venv/bin/python" --no-deps --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/.installed"
fi
if ! cmp -s "$here/train.py" "$venv/model/.trained"; then
    "$venv/bin/python" "$here/train.py" "$venv/model"
    cp "$here/train.py" "$venv/model/.trained"
fi
if [ "${1:-}" = locust ] && [ ! -x "$venv/bin/locust" ]; then
    uv pip install --quiet --python "$venv/bin/python" locust==2.47.0
fi
