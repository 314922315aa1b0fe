"""The Accept headers that scrapers send.

Those of Prometheus 3.16 are compared with a real one's in tests/e2e/test_prometheus_versions.py,
vmagent's in tests/e2e/test_peers.py (v1.79.5; v1.151 has the same in lib/promscrape/client.go). The
others are as their sources build them: Grafana Alloy's prometheus.scrape and the OpenTelemetry
Collector's receiver scrape with Prometheus' own package, which builds the header of the scrape
protocols and the escaping scheme. Alloy's default is `underscores`
(internal/component/prometheus/scrape/scrape.go), the receiver has Prometheus' settings.
"""

from __future__ import annotations

from collections.abc import Sequence

PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
OPENMETRICS = "application/openmetrics-text;version="
TEXT = "text/plain;version="
# By the names of the setting scrape_protocols.
MEDIA_TYPES = {
    "PrometheusProto": PROTOBUF,
    "OpenMetricsText1.0.0": f"{OPENMETRICS}1.0.0",
    "OpenMetricsText0.0.1": f"{OPENMETRICS}0.0.1",
    "PrometheusText1.0.0": f"{TEXT}1.0.0",
    "PrometheusText0.0.4": f"{TEXT}0.0.4",
}
TEXTS = tuple(MEDIA_TYPES)[1:]
SCHEMES = ("allow-utf-8", "underscores", "dots", "values")

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
VMAGENT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"


def prometheus_3(protocols: Sequence[str] = TEXTS, scheme: str = "allow-utf-8") -> str:
    """Returns the header of Prometheus 3.16 with these settings."""
    parts = []
    tenths = 7
    for protocol in protocols:
        escaping = f";escaping={scheme}" if protocol.endswith("1.0.0") else ""
        parts.append(f"{MEDIA_TYPES[protocol]}{escaping};q=0.{tenths}")
        tenths -= 1
    return ",".join([*parts, f"*/*;q=0.{tenths}"])
