"""Settings of the source of traces."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from msgspec import Meta

from exporter.settings import Duration, SourceSettings, split_address


class Settings(SourceSettings, frozen=True):
    """Settings of the OTLP listener and of the histograms."""

    listen_address: Annotated[
        str,
        Meta(
            description="host:port that accepts spans as OTLP/HTTP (POST /v1/traces), such as "
            "127.0.0.1:4318; an address other than loopback needs a token; none: no listener"
        ),
    ] = ""
    token: Annotated[
        str,
        Meta(
            description="bearer token that senders need (OTEL_EXPORTER_OTLP_HEADERS="
            "authorization=Bearer TOKEN); @/path is that file's content without its last newline"
        ),
    ] = ""
    max_body_bytes: Annotated[
        int,
        Meta(
            description="maximum length of one POST, as sent and unpacked",
            ge=1024,
            le=64 << 20,
        ),
    ] = 2 << 20
    max_posts: Annotated[
        int, Meta(description="POSTs per second; more are answered and dropped", ge=1, le=100_000)
    ] = 500
    max_spans: Annotated[
        int,
        Meta(description="spans per second; more are left out", ge=1, le=1_000_000),
    ] = 20_000
    max_models: Annotated[
        int,
        Meta(description="models, each version, with histograms; more are left out", ge=1),
    ] = 200
    window: Annotated[Duration, Meta(description="window of triton_trace_coverage_ratio")] = (
        Duration(300)
    )
    manage_triton: Annotated[
        bool,
        Meta(
            description="switch the traces of Triton's models on while the exporter runs; needs a "
            "server from version 2.57 on, started with --trace-config mode=opentelemetry"
        ),
    ] = False
    rate: Annotated[
        int,
        Meta(
            description="with manage_triton, one of so many requests of a model is traced; below "
            "100 the server loses throughput",
            ge=1,
            le=1_000_000,
        ),
    ] = 100

    def __post_init__(self) -> None:
        if self.manage_triton and not self.listen_address:
            raise ValueError("manage_triton: needs traces.listen_address")
        if not self.listen_address:
            return
        host, _ = split_address(self.listen_address)
        if not self.token and not _is_loopback(host):
            raise ValueError(
                f"listen_address: {self.listen_address} is reachable from other hosts or"
                " containers: set traces.token, or listen on 127.0.0.1"
            )


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
