#!/bin/sh
# Installs a real Triton server for the tests into .venv-triton of the checkout, unless present.
#   PYTHON  interpreter for the virtual environment (default: python3)
# The wheel contains the tritonserver binary, its Python backend and its response cache. It pins
# numpy<2 and its own gRPC, so it never shares an environment with the exporter; the server needs
# only numpy of its dependencies.
set -eu
root=$(cd "$(dirname "$0")/../../.." && pwd)
venv=$root/.venv-triton
version=0.7.0
done=$venv/.installed-$version
[ -e "$done" ] && exit 0

rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    "nvidia-pytriton==$version" "numpy<2"
# The backend loads its stub from its own folder; the wheel has a stub per Python version.
server=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pytriton/tritonserver
python=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cp "$server/python_backend_stubs/$python/triton_python_backend_stub" "$server/backends/python/"
ln -s "$server" "$venv/tritonserver"
touch "$done"
