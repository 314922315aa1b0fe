"""The proxies of deploy/proxies before a real Triton: every status of a fixed plan is counted."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import Daemon, off, running
from tests.parts import missing
from tests.paths import ROOT
from tests.ports import free_ports
from tests.sources.triton.server import Model, Server
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PROXIES = ROOT / "deploy" / "proxies"
DEMO = ROOT / "deploy" / "demo"
ENVOY = ROOT / ".cache" / "envoy" / "bin" / "envoy"
REQUESTS = 260


@dataclass(frozen=True, slots=True)
class Recipe:
    """A proxy: its counter of requests, and the histograms of body sizes, without their suffix."""

    counter: str
    request_sizes: str
    response_sizes: str


RECIPES = {
    "envoy": Recipe(
        "envoy_cluster_upstream_rq",
        "envoy_cluster_upstream_rq_body_size",
        "envoy_cluster_upstream_rs_body_size",
    ),
    "caddy": Recipe(
        "caddy_http_request_duration_seconds_count",
        "caddy_http_request_size_bytes",
        "caddy_http_response_size_bytes",
    ),
    "nginx": Recipe(
        "nginx_http_requests_total",
        "nginx_http_request_size_bytes",
        "nginx_http_response_size_bytes",
    ),
}


def demo_model(name: str) -> Model:
    folder = DEMO / "models" / name
    _, _, config = (folder / "config.pbtxt").read_text().partition("\n")
    return Model(name, whole_config=config, code=(folder / "1" / "model.py").read_text())


def program(name: str) -> str:
    return shutil.which(name) or missing(f"no {name} (Debian package {name})")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy. page: URL of its metrics."""

    port: int
    page: str


@contextlib.contextmanager
def proxies(folder: Path, triton: int) -> Iterator[dict[str, Proxy]]:
    """Starts the proxies, with their recipes' ports and folders replaced."""
    if not ENVOY.exists():
        missing("no Envoy in .cache/envoy; deploy/proxies/install.sh installs it")
    ports = iter(free_ports(6))
    running_: dict[str, Proxy] = {}
    commands: list[list[str]] = []

    def written(name: str, page: str, admin: str, edit: Callable[[str], str] = str) -> Path:
        proxy = Proxy(next(ports), "")
        number = next(ports)
        text = edit((PROXIES / name).read_text())
        for old, new in (("8800", proxy.port), ("8000", triton), (admin, number)):
            text = re.sub(rf"\b{old}\b", str(new), text)
        (folder / name).write_text(text)
        running_[page] = Proxy(proxy.port, f"127.0.0.1:{number}")
        return folder / name

    envoy = written("envoy.yaml", "envoy", "9901")
    commands.append([str(ENVOY), "-c", str(envoy), "--concurrency", "1", "-l", "warning"])
    caddy = written(
        "Caddyfile", "caddy", "2019", lambda text: text.replace("localhost", "127.0.0.1")
    )
    commands.append([program("caddy"), "run", "--config", str(caddy), "--adapter", "caddyfile"])
    log = folder / "triton.json"
    log.touch()
    nginx = written(
        "nginx.conf", "nginx", "3903", lambda text: text.replace("/var/log/nginx", str(folder))
    )
    commands.append(
        [
            *(program("nginx"), "-c", str(nginx), "-e", str(folder / "nginx.log"), "-g"),
            f"daemon off; master_process off; pid {folder}/nginx.pid;",
        ]
    )
    mtail = running_["nginx"].page
    commands.append(
        [
            *(program("mtail"), "--progs", str(PROXIES / "nginx.mtail"), "--logs", str(log)),
            *("--address", "127.0.0.1", "--port", mtail.split(":")[1]),
        ]
    )
    processes = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as output:
                processes.append(
                    subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
                )
        for name, path in (
            ("envoy", "/stats/prometheus"),
            ("caddy", "/metrics"),
            ("nginx", "/metrics"),
        ):
            until(
                lambda name=name, path=path: responds(f"http://{running_[name].page}{path}"),  # type: ignore[misc]  # default arguments bind the loop's values
                f"{name} to respond",
                seconds=60,
            )
        yield {
            name: Proxy(proxy.port, f"{proxy.page}{'/stats/prometheus' if name == 'envoy' else ''}")
            for name, proxy in running_.items()
        }
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - http
            return bool(response.status == 200)
    except OSError:  # not yet
        return False


def statuses(output: str) -> Counter[str]:
    """Returns the plan's responses by status, from the printed ledger."""
    ledger: Counter[str] = Counter()
    for status, count in re.findall(
        r"^(?:health|good|corrupt) *(\d+): (\d+)$", output, re.MULTILINE
    ):
        ledger[status] += int(count)
    return ledger


def counted(daemon: Daemon, name: str, **labels: str) -> float:
    return sum(
        value
        for (sample, pairs), value in daemon.samples().items()
        if sample == name and labels.items() <= dict(pairs).items()
    )


def test_every_status_and_size_is_counted_where_triton_counts_none(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "triton", [demo_model("classify"), demo_model("generate")]) as triton,
        proxies(tmp_path, triton.http) as started,
        running(
            tmp_path,
            "--web.listen-address=127.0.0.1:0",
            *off("gpu", "containers", "host"),
            f"--triton.url=t={triton.url}",
            "--triton.interval=500ms",
            "--upstream.interval=500ms",
            *(f"--upstream.url={name}={proxy.page}" for name, proxy in started.items()),
        ) as daemon,
    ):
        for name in started:
            until(lambda name=name: daemon.value("upstream_up", upstream=name) == 1, f"{name} up")  # type: ignore[misc]  # as above
        until(lambda: counted(daemon, "triton_model_ready") == 2, "both models")
        sent: Counter[str] = Counter()
        for name, recipe in RECIPES.items():
            plan = subprocess.run(
                [
                    *(sys.executable, DEMO / "load.py", f"--requests={REQUESTS}"),
                    f"--page=http://127.0.0.1:{daemon.port}/metrics",
                    *(f"--counter={recipe.counter}", f"--match=upstream={name}"),
                    f"127.0.0.1:{started[name].port}",
                ],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            assert plan.returncode == 0, f"{name}:\n{plan.stdout}{plan.stderr}"
            ledger = statuses(plan.stdout)
            assert ledger.total() == REQUESTS
            assert {"200", "400", "404", "500"} <= ledger.keys(), "every kind of response"
            assert plan.stdout.count(": equal") == len(ledger)
            # Responses of 100 to 1,000 bytes, and requests, which nginx counts with their headers.
            for sizes in (recipe.request_sizes, recipe.response_sizes):
                until(
                    lambda sizes=sizes, name=name: (  # type: ignore[misc]  # as above
                        counted(daemon, f"{sizes}_count", upstream=name) == REQUESTS
                    ),
                    f"all requests in {sizes}",
                    seconds=30,  # Envoy writes its histograms every 5 s
                )
                until(
                    lambda sizes=sizes, name=name: (  # type: ignore[misc]  # as above
                        10 < counted(daemon, f"{sizes}_sum", upstream=name) / REQUESTS < 1000
                    ),
                    f"the bytes in {sizes}",
                )
            sent += ledger
        # Its health checks and its refusals of bad requests are in none of Triton's counters.
        asked = until(lambda: counted(daemon, "triton_requests_total"), "Triton's own count")
        refused = sent["400"] + sent["404"]
        assert refused > 30
        assert asked < sent.total() - refused
