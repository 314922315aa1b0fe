#!/usr/bin/env bash
# Installs the real parts that the tests run against, and lists those it cannot install. Tests that
# need a missing part skip, or fail if REQUIRE_REAL_PARTS is set.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
[ -x /usr/sbin/dockerd ] || missing+=(docker.io)
[ -x /usr/sbin/iptables ] || missing+=(iptables)
[ -x /usr/bin/prometheus ] || missing+=(prometheus)
[ -x /usr/bin/promtool ] || missing+=(prometheus)
dpkg -s busybox-static >/dev/null 2>&1 || missing+=(busybox-static)
command -v podman >/dev/null || missing+=(podman)
[ -x /usr/bin/containerd ] || missing+=(containerd)
[ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
command -v openssl >/dev/null || missing+=(openssl)
# The proxies of deploy/proxies.
command -v caddy >/dev/null || missing+=(caddy)
command -v nginx >/dev/null || missing+=(nginx-light)
command -v mtail >/dev/null || missing+=(mtail)
# For the virtual machine of tests/deploy/vm and the base image of tests/deploy/image.py.
[ "${VM_MACHINE:-uml}" = uml ] || command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)

debian_packages() {
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests/install.sh: not root on Debian: install these by hand: ${missing[*]}" >&2
    return
  fi
  # Keeps Debian from starting dockerd, Prometheus and others after installation: the tests start theirs.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# All at the same time: each uses one CPU, or waits for a download.
jobs=()
start() {
  "$@" &
  jobs+=("$! $*")
}
[ ${#missing[@]} -eq 0 ] || start debian_packages
# The last two use uv, which the first installs.
start sh -ec 'for part in model_server/servers sources/gpu; do tests/$part/install.sh; done
  examples/wine-quality/install.sh'
start tests/sources/triton/install.sh
start tests/upstream/install.sh
start deploy/proxies/install.sh
status=0
for job in "${jobs[@]}"; do
  wait "${job%% *}" || { echo "tests/install.sh: failed: ${job#* }" >&2; status=1; }
done
exit $status
