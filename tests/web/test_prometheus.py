"""A real Prometheus scrapes over TLS with basic authentication while certificates are renewed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.certificates import authority, fingerprint, fingerprint_of, signed
from tests.daemon import QUICK, Daemon, off, running
from tests.prometheus import Prometheus
from tests.prometheus import running as running_prometheus
from tests.waiting import until
from tests.web.test_tls import TLS, WebConfigFolder, basic_auth_users


def scrapes(prometheus: Prometheus) -> float:
    return prometheus.scalar("max(sum by (number) (inference_exporter_scrapes_total))") or 0


def scraped_more_than(count: float, prometheus: Prometheus) -> bool:
    return scrapes(prometheus) > count


def serves(port: int, expected: str) -> bool:
    return fingerprint(port) == expected


@pytest.mark.real
def test_prometheus_scrapes_while_the_certificate_is_renewed(tmp_path: Path) -> None:
    config = WebConfigFolder(tmp_path, authority(tmp_path), tmp_path / "web.yml")
    config.renew("first")
    client = signed(config.ca, tmp_path / "client", "scraper", "DNS:scraper.example")
    config.write(
        TLS.replace(
            "}",
            ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: authority.crt, "
            "client_allowed_sans: [scraper.example]}",
        )
        + basic_auth_users(prometheus="its password")
    )
    flags = (f"--web.config.file={config.file}", "--web.idle-timeout=1s")
    job = (
        "scheme: https, basic_auth: {username: prometheus, password: its password}, "
        f"tls_config: {{ca_file: {config.ca.cert}, server_name: localhost, "
        f"cert_file: {client.cert}, key_file: {client.key}}}"
    )
    with running(tmp_path, *QUICK, *off("gpu", "containers", "triton"), *flags) as daemon:
        targets = (
            f"{{targets: ['127.0.0.1:{daemon.port}'], labels: {{number: '{number}'}}}}"
            for number in range(20)
        )
        # Two scrapes a second, each with the time of a busy machine.
        settings = (
            "global: {scrape_interval: 10s, scrape_timeout: 10s}\nscrape_configs:\n"
            f"  - {{job_name: inference, static_configs: [{', '.join(targets)}], {job}}}\n"
        )
        with running_prometheus(tmp_path / "prometheus", settings) as prometheus:
            renew_while_it_scrapes(config, daemon, prometheus)


def renew_while_it_scrapes(config: WebConfigFolder, daemon: Daemon, prometheus: Prometheus) -> None:
    until(lambda: prometheus.scalar("max(up)") == 1, "a scrape", seconds=20)
    for name in ("second", "third"):
        renewed = fingerprint_of(config.renew(name))
        until(partial(serves, daemon.port, renewed), name)
        count = scrapes(prometheus) + 3
        until(partial(scraped_more_than, count, prometheus), "scrapes after the renewal", 20)
    # No scrape has failed since the first success.
    assert prometheus.scalar("min(min_over_time(up[5m]))") == 1
    assert (prometheus.scalar("max(host_memory_total_bytes)") or 0) > 1e8
