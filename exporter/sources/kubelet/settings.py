"""Settings of the kubelet source."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """The kubelet's pod-resources API: the GPUs assigned to pods, on a Kubernetes node."""

    socket: Annotated[
        str,
        Meta(
            description="socket of the pod-resources API; in a container mount its directory, as "
            "the kubelet replaces the socket at every start",
            pattern="^/",
            extra={"form": "an absolute path"},
        ),
    ] = "/var/lib/kubelet/pod-resources/kubelet.sock"
    api_token_file: Annotated[
        str,
        Meta(
            description="file with a token of the Kubernetes API, to map devices of dynamic "
            "resource allocation (DRA) to GPUs: it must permit `list` of resourceslices; without "
            "it the API server is not contacted"
        ),
    ] = ""
    api_url: Annotated[str, Meta(description="URL of the Kubernetes API", min_length=1)] = (
        "https://kubernetes.default.svc"
    )
    api_ca_file: Annotated[
        str, Meta(description="CA certificate of the Kubernetes API; empty: those of the system")
    ] = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    node_name: Annotated[
        str,
        Meta(
            description="this node's name, to list only its ResourceSlices",
            extra={"env": ["NODE_NAME"]},
        ),
    ] = ""
