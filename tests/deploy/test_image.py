"""The image on a real dockerd: read-only, not root, next to other containers."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.models.containers import Container

from tests.daemon import Samples, find, parse
from tests.deploy import image
from tests.fakes.nvml.standin import Driver
from tests.ports import free_port
from tests.sources.containers.dockerd import Dockerd
from tests.sources.containers.engine import Engine
from tests.waiting import until

SECOND = 1_000_000_000
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
# The image lacks packages that the libraries require but the exporter does not import.
PROGRAM = """
import os, docker, grpc, pynvml, exporter
from exporter.sources.triton.client import _import_client_class
_import_client_class()
print(os.getuid(), exporter.__file__)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Dockerd("overlay2") as engine:
        folder = tmp_path_factory.mktemp("base")
        base = image.import_base(engine, folder)
        started = time.monotonic()
        size = image.build(engine)
        print(  # noqa: T201 - for the closing note: pytest -s
            f"\nimage: {(size - base) / 1e6:.0f} MB without its base ({base / 1e6:.0f} MB here), "
            f"built in {time.monotonic() - started:.0f} s"
        )
        assert size - base < 80e6
        yield engine


def samples(port: int) -> Samples:
    """Returns the current page; empty before the daemon listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        reply = connection.getresponse()
        return parse(reply.read().decode()) if reply.status == 200 else {}
    except OSError:
        return {}
    finally:
        connection.close()


@contextlib.contextmanager
def exporter(engine: Engine, *more: str, **options: Any) -> Iterator[tuple[Container, int]]:
    """Runs the image with the options of docs/container.md and a free port.

    more: arguments of the daemon. options: of `docker run`.
    """
    port = free_port()
    with engine.client() as client:
        container = client.containers.run(
            image.TAG,
            list(more),
            detach=True,
            read_only=True,
            network_mode="host",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={
                "INFERENCE_EXPORTER_WEB_LISTEN_ADDRESS": f"127.0.0.1:{port}",
                **options.pop("environment", {}),
            },
            healthcheck={"interval": SECOND, "timeout": 5 * SECOND, "retries": 3},
            **options,
        )
    try:
        until(lambda: samples(port), "the first scrape", seconds=60)
        yield container, port
    finally:
        engine.call(container, "remove", force=True)


def host_options(engine: Engine) -> dict[str, Any]:
    """Returns the options of docs/container.md that give access to the host."""
    return {
        "volumes": {
            "/proc": {"bind": "/host/proc", "mode": "ro"},
            "/sys": {"bind": "/host/sys", "mode": "ro"},
            str(engine.socket): {"bind": "/run/docker.sock", "mode": "ro"},
        },
        "group_add": [str(engine.socket.stat().st_gid)],
        "environment": {
            "INFERENCE_EXPORTER_PATH_PROCFS": "/host/proc",
            "INFERENCE_EXPORTER_PATH_SYSFS": "/host/sys",
            "DOCKER_HOST": "unix:///run/docker.sock",
        },
    }


@pytest.mark.real
@pytest.mark.timeout(600)
def test_user_health_check_and_labels_of_the_image(engine: Engine) -> None:
    with engine.client() as client:
        attributes = client.images.get(image.TAG).attrs
        config = attributes["Config"]
        output = client.containers.run(
            image.TAG,
            ["-c", PROGRAM],
            entrypoint="/opt/inference-exporter/bin/python",
            network_mode="none",
            remove=True,
        ).decode()
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][-1] == "exporter.health"
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert output.startswith("65532 /opt/inference-exporter/lib/")


@pytest.mark.real
def test_read_only_and_not_root_it_reads_the_host(engine: Engine) -> None:
    limited = engine.run("limited", ("sleep", "1000000"), mem_limit=64 << 20)
    started = time.monotonic()
    try:
        with exporter(engine, **host_options(engine)) as (container, port):
            print(f"\nrun to first scrape: {time.monotonic() - started:.1f} s")  # noqa: T201 - as above

            def value(name: str, /, **labels: str) -> float | None:
                return find(samples(port), name, **labels)

            until(lambda: value("container_engine_up") == 1, "Docker's socket is read")
            limit = "container_spec_memory_limit_bytes"
            until(lambda: value(limit, name="limited") == 64 << 20, "and its cgroups")
            assert (value("container_memory_working_set_bytes", name="limited") or 0) > 0
            boot = Path("/proc/stat").read_text().split("btime ")[1].split()[0]
            assert value("host_boot_time_seconds") == float(boot), "the host's /proc"
            until(
                lambda: (
                    (health := engine.inspect(container)["State"]["Health"])["Status"] == "healthy"
                    and health["FailingStreak"] == 0
                ),
                "its health check succeeds",
                seconds=60,
            )
            with engine.client() as client:
                changed = {entry["Path"] for entry in client.api.diff(str(container.id))}
            mounts = {"/host", "/host/proc", "/host/sys", "/run", "/run/docker.sock"}
            assert changed <= mounts, "it writes nothing"
            code, output = engine.call(container, "exec_run", ["inference-exporter", "check"])
            print(output.decode())  # noqa: T201 - as above
            assert code == 0, output.decode()
            engine.call(container, "stop", timeout=9)
            assert engine.inspect(container)["State"]["ExitCode"] == 0, "not killed after 30 s"
    finally:
        engine.call(limited, "remove", force=True)


@pytest.mark.real
def test_without_the_socket_only_containers_are_missing(engine: Engine, tmp_path: Path) -> None:
    """Mounts only the driver's library, as NVIDIA's runtime does: GPUs, no containers."""
    driver = Driver(tmp_path, gpus=2)
    tmp_path.chmod(0o777)  # the stand-in counts its calls next to its control file
    volumes = {
        str(driver.library): {"bind": f"{LIBRARIES}/libnvidia-ml.so.1", "mode": "ro"},
        str(tmp_path): {"bind": "/standin", "mode": "rw"},
    }
    environment = {"NVML_STANDIN_FILE": f"/standin/{driver.file.name}"}
    with exporter(engine, volumes=volumes, environment=environment) as (container, port):
        until(lambda: find(samples(port), "gpu_up", gpu="1") == 1, "both GPUs")
        page = samples(port)
        assert find(page, "container_engine_up") is None, "no socket: not found, not a failure"
        assert find(page, "host_load1") is not None
        assert engine.inspect(container)["State"]["Running"]
