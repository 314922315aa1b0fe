#!/bin/sh
# Installs the model servers of the tests into .cache/model-servers, each in an environment of its
# own, because their pins conflict; does nothing for a server that is installed. (FastAPI's
# environment is .cache/fastapi, of tests/upstream/install.sh.)
#   install.sh [SERVER...]  by default those of `make test`; `make servers` names the large ones
#   PYTHON  the interpreter that creates the environments (default: python3)
# The requirements list every package with its version, so that nothing is resolved and no release
# of a dependency changes the tests. uv installs them in seconds, pip in minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
folder=$root/.cache/model-servers
python=${PYTHON:-python3}
uv_version=0.13.8

if [ ! -e "$folder/uv/.installed-$uv_version" ]; then
    rm -rf "$folder/uv"
    "$python" -m venv "$folder/uv"
    "$folder/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
    touch "$folder/uv/.installed-$uv_version"
fi
for server in ${*:-llamacpp mlserver kserve bentoml}; do
    requirements=$here/requirements/$server.txt
    venv=$folder/$server
    cmp -s "$requirements" "$venv/.installed" && continue
    rm -rf "$venv"
    "$folder/uv/bin/uv" venv --quiet --python "$python" "$venv"
    "$folder/uv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps \
        --requirement "$requirements"
    cp "$requirements" "$venv/.installed"
done
