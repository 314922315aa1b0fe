#!/usr/bin/env bash
# Builds a Docker 29 engine with Go, once, and prints its folder:
# $DOCKER_29 or ~/.cache/inference-exporter/docker-29. About five minutes the first time.
# Its containerd is Debian's (package containerd, which comes with docker.io); Debian's runc 1.1
# is too old for it, so runc is built too.
set -euo pipefail

dockerd=v2.0.0-beta.24 # the sources of Docker 29
runc=v1.5.2
folder=${DOCKER_29:-${XDG_CACHE_HOME:-$HOME/.cache}/inference-exporter/docker-29}
built="$folder/built"

if [ "$(cat "$built" 2>/dev/null)" != "$dockerd $runc" ]; then
  PATH=$PATH:/usr/local/go/bin
  command -v go >/dev/null || {
    echo "tests/sources/containers/real_engines/build.sh: Go is needed to build Docker 29 (https://go.dev/dl)" >&2
    exit 1
  }
  mkdir -p "$folder"
  export GOBIN=$folder CGO_ENABLED=0 GOFLAGS=-trimpath
  echo "building Docker 29 ($dockerd) into $folder: some minutes, once only" >&2
  go install -ldflags "-X github.com/moby/moby/v2/dockerversion.Version=${dockerd#v}" \
    "github.com/moby/moby/v2/cmd/dockerd@$dockerd" >&2
  # runc needs cgo.
  CGO_ENABLED=1 go install "github.com/opencontainers/runc@$runc" >&2
  echo "$dockerd $runc" >"$built"
fi
echo "$folder"
