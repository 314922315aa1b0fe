"""Libraries that a daemon with its default settings does not import, and what imports them."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from tests import clean_interpreter
from tests.certificates import authority
from tests.clean_interpreter import COMMAND_LINE, DAEMON

ENGINE_SDK = (*DAEMON, "import exporter.sources.containers.engine.sdk")

# Prints the modules of a daemon whose first polls are done; then those of one with a settings file.
POLLS = """
import asyncio, json, sys
from exporter.app import App
from exporter.config import load

async def modules(docker_host, file):
    flags = {"web.listen_address": ["127.0.0.1:0"], "control.socket": [""]}
    flags["containers.docker_host"] = [docker_host]
    app = App(load(file, {}, flags))
    await app.start()
    async with asyncio.timeout(50):
        while not app.ready:
            await asyncio.sleep(0.01)
    names = [*sys.modules]
    await app.close()
    return names

docker_host, file = sys.argv[1:]
print(json.dumps([asyncio.run(modules(docker_host, path)) for path in (None, file)]))
"""
# By the megabytes that it takes, where it is more than 1.
UNUSED = {
    "aiohttp.web_app": "of aiohttp.web, 1.5 MB: no routes, static files, WebSockets",
    "aiohttp.web_fileresponse": "as above",
    "aiohttp.web_urldispatcher": "as above",
    "bcrypt": "for users of the web configuration file",
    "charset_normalizer": "3 MB, for texts of an unknown character set",
    "docker.models": "for DockerClient; the containers source uses APIClient",
    "exporter.dialects.cadvisor": "for the dialect cadvisor",
    "exporter.dialects.dcgm": "for the dialect dcgm",
    "exporter.sources.containers.cri.client": "for a CRI runtime",
    "exporter.sources.gpu.simulation.source": "for simulated GPUs",
    "exporter.sources.predictions.reference_file": "for a reference of predictions",
    "exporter.traces.listening": "for a listener of traces",
    "google.protobuf": "for a CRI runtime, the kubelet or traces",
    "grpc": "22 MB, for a CRI runtime or the kubelet",
    "http.server": "for prometheus_client's own server",
    "importlib.metadata": "for the version of h2, by urllib3",
    "multiprocessing": "no child processes",
    "numpy": "for tensors of inference requests",
    "opentelemetry": "for traces",
    "prometheus_client.exposition": "1 MB: pages are rendered by exporter.exposition",
    "pydoc": "a tool of developers",
    "pytest": "a tool of developers",
    "re2": "2 MB, for an expression of the settings that is not the default",
    "sqlite3": "no database",
    "statistics": "for what three lines compute",
    "tarfile": "for the building of images",
    "unittest": "a tool of developers",
    "wsgiref": "for prometheus_client's own server",
    "xml": "no XML",
    "yaml": "2 MB, for a settings file or web configuration file",
    "zipfile": "for certificates in an archive, by requests",
}


def python(program: str, *arguments: str, after: tuple[str, ...]) -> str:
    """Returns the output of a new Python process."""
    done = clean_interpreter.run(program, *arguments, after=after, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The modules with an engine that does not respond: its SDK is imported, too.

    Those of a daemon without a settings file, then with one.
    """
    folder = tmp_path_factory.mktemp("host")
    file = folder / "settings.yml"
    file.write_text("log: {level: error}\n")
    output = python(POLLS, f"unix://{folder}/docker.sock", str(file), after=DAEMON)
    without, with_file = (set(names) for names in json.loads(output))
    return without, with_file


@pytest.mark.parametrize("name", UNUSED)
def test_a_default_daemon_does_not_import(modules: tuple[set[str], set[str]], name: str) -> None:
    imported, _ = modules
    assert {"aiohttp", "docker", "requests", "psutil"} <= imported, "its sources are imported"
    assert name not in imported


def test_a_settings_file_needs_yaml(modules: tuple[set[str], set[str]]) -> None:
    _, with_file = modules
    assert "yaml" in with_file


def test_docker_and_the_modules_left_out_of_it_work_for_others() -> None:
    program = """
import sys
import exporter.sources.containers.engine.sdk
import docker, docker.utils.build, requests.utils, urllib3.http2
client = docker.DockerClient("tcp://127.0.0.1:1", version="1.41")
print(type(client.containers).__name__, docker.utils.build.tarfile.TarInfo("x").name)
client.close()
import docker.client, importlib.metadata, tarfile, zipfile
print(isinstance(client, docker.client.DockerClient), tarfile.__name__)
print(requests.utils.zipfile.ZipInfo("y").filename, zipfile.__name__)
print(urllib3.http2.version("docker") == importlib.metadata.version("docker") >= "7")
"""
    assert (
        python(program, after=ENGINE_SDK)
        == "ContainerCollection x\nTrue tarfile\ny zipfile\nTrue\n"
    )


def test_the_version_without_importlib_metadata() -> None:
    program = """
import sys
import exporter.sources.containers.engine.sdk
import requests
print(requests.charset_normalizer_version, "importlib.metadata" in sys.modules)
"""
    version = importlib.metadata.version("charset_normalizer")
    assert python(program, after=ENGINE_SDK) == f"{version} False\n"


def test_the_sdk_without_the_files_that_name_its_versions() -> None:
    """As of packages that no wheel installed: their versions are looked up during the import."""
    program = """
import pathlib, sys
sys.modules["docker._version"] = None
pathlib.Path.glob = lambda *_: iter(())
import exporter.sources.containers.engine.sdk
import docker, importlib.metadata, requests
print(docker.__version__, requests.charset_normalizer_version)
print(type(importlib.metadata).__name__, importlib.metadata.version("docker"))
"""
    docker, guesser = map(importlib.metadata.version, ("docker", "charset_normalizer"))
    assert python(program, after=DAEMON) == f"{docker} {guesser}\nmodule {docker}\n"


def test_no_tls_context_has_the_default_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(authority(tmp_path).cert)
    monkeypatch.setenv("SSL_CERT_FILE", file)
    program = """
import gc, os, ssl, sys
from exporter.cli import run
from exporter.registry import SOURCES
run(["once", *(f"--{entry.name.replace('_', '-')}.enabled=off" for entry in SOURCES)], {})
contexts = [found for found in gc.get_objects() if isinstance(found, ssl.SSLContext)]
print("aiohttp" in sys.modules, {len(context.get_ca_certs()) for context in contexts})
print(os.environ["SSL_CERT_FILE"], len(ssl.create_default_context().get_ca_certs()))
"""
    output = python(program, after=COMMAND_LINE)
    assert output == f"True {{0}}\n{file} 1\n"


def test_requests_guesses_an_encoding_when_asked() -> None:
    program = """
import sys
import exporter.sources.containers.engine.sdk
import requests
before = "charset_normalizer" in sys.modules
response = requests.Response()
response._content = "Größe".encode()
print(before, response.apparent_encoding, "charset_normalizer" in sys.modules)
"""
    assert python(program, after=ENGINE_SDK) == "False utf-8 True\n"
