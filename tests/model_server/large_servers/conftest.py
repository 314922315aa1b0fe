"""The servers of `make servers`: too large for `make test`, which ignores this folder.

The session's vLLM starts with the first test that needs it, test_vllm.py or a later file; the
servers of the files before it have ended by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.model_server.large_servers.figures import started
from tests.model_server.servers.peer import Peer, peer_of
from tests.model_server.servers.vllm import vllm

collect_ignore_glob = [] if os.environ.get("LARGE_SERVERS") else ["test_*.py"]


@pytest.fixture(scope="session")
def vllm_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """vLLM, shared by all tests of a session: each leaves it awake and without requests."""
    process = vllm(tmp_path_factory.mktemp("vllm"))
    with process:
        yield started("vLLM", peer_of(process))
