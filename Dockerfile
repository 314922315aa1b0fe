# The image of inference-exporter. `make image` builds, runs and measures it; docs/container.md
# describes each mount and flag.
#
# The base is pinned by tag. For a reproducible build pin it by digest:
#   docker build --build-arg BASE=python:3.12-slim-bookworm@sha256:… .
# It must have glibc (the mounted NVIDIA driver libraries need it) and Python 3.11 or newer at the
# same path in both stages. It builds on amd64 and arm64: every dependency has wheels.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv --without-pip /opt/inference-exporter \
 && python3 -m venv /pip
# Requirements first: a code change keeps this layer.
COPY pyproject.toml ./
# With the extra for Kubernetes nodes.
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print(*p["dependencies"], *p["optional-dependencies"]["cri"], sep="\n")' >/requirements \
 && /pip/bin/pip --python /opt/inference-exporter/bin/python install --no-cache-dir --only-binary=:all: -r /requirements
COPY LICENSE README.md ./
COPY systemd systemd
COPY exporter exporter
# Removes the dependencies' tests, headers and sources, and what tritonclient requires but the exporter
# never imports (exporter/sources/triton/client.py): 90 MB.
RUN /pip/bin/pip --python /opt/inference-exporter/bin/python install --no-cache-dir --no-deps . \
 && cd /opt/inference-exporter/lib/python3*/site-packages \
 && rm -rf numpy* ml_dtypes* gevent* geventhttpclient* greenlet* zope* \
 && find . -depth -type d \( -name tests -o -name include \) -exec rm -rf {} + \
 && find . \( -name '*.a' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete \
 && rm -rf /opt/inference-exporter/share \
 && /opt/inference-exporter/bin/inference-exporter --version

FROM ${BASE}
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inference-exporter" \
      org.opencontainers.image.description="GPUs, containers and Triton of one inference host on one Prometheus page" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim-bookworm"
COPY --from=build /opt/inference-exporter /opt/inference-exporter
# Python writes no .pyc files: the image works with --read-only and without a /tmp.
# NVIDIA's runtime reads the NVIDIA_* variables and mounts the driver's library and devices.
ENV PATH=/opt/inference-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility
USER 65532:65532
EXPOSE 10400
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["/opt/inference-exporter/bin/python", "-m", "exporter.health"]
ENTRYPOINT ["/opt/inference-exporter/bin/inference-exporter"]
