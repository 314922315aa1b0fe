"""Settings of the exporter's own metrics."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from exporter.settings import SourceSettings


class Settings(SourceSettings, frozen=True):
    """The exporter's own metrics."""

    pod_name: Annotated[
        str,
        Meta(
            description="the exporter's own pod, of inference_exporter_pod_info; from the downward "
            "API (metadata.name)",
            extra={"env": ["POD_NAME"]},
        ),
    ] = ""
    pod_namespace: Annotated[
        str,
        Meta(
            description="the namespace of that pod (metadata.namespace)",
            extra={"env": ["POD_NAMESPACE"]},
        ),
    ] = ""
    node_name: Annotated[
        str,
        Meta(
            description="the node of that pod (spec.nodeName)",
            extra={"env": ["NODE_NAME"]},
        ),
    ] = ""
