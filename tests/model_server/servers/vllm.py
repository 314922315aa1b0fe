"""vLLM on the CPU with a tiny model of random weights; `make servers` installs it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.model_server.servers.engines import APPS, environment_python
from tests.model_server.servers.process import Process
from tests.ports import free_ports

MODEL = "tiny"
MAX_CONTEXT = 512
"""Tokens of prompt and response together. A token takes about 10 ms."""
MAX_RUNNING = 4
MAX_QUEUED = 6
"""Requests at once, running ones included; further ones are rejected."""
BLOCK = 128
"""Tokens of a block of the KV cache."""
BLOCKS = 8
"""Half of what four requests of the longest context need."""
START_SECONDS = 600
"""vLLM starts in 25 seconds on an idle machine: three processes import 1 GB each."""


def vllm(folder: Path, *arguments: str) -> Process:
    """VLLM that runs four requests at once. arguments: further ones of `vllm serve`."""
    python = environment_python("vllm")
    model = folder / "model"
    subprocess.run([python, APPS / "tiny_llama.py", model], check=True, timeout=120)

    def command(ports: Sequence[int]) -> Sequence[str]:
        return (
            *(str(python), str(APPS / "vllm_server.py"), "serve", str(model)),
            *("--host=127.0.0.1", f"--port={ports[0]}", f"--served-model-name={MODEL}"),
            *("--load-format=dummy", "--dtype=bfloat16", "--enforce-eager"),
            *(f"--max-model-len={MAX_CONTEXT}", f"--max-num-seqs={MAX_RUNNING}"),
            # One block is vLLM's own.
            *(f"--num-gpu-blocks-override={BLOCKS + 1}", f"--block-size={BLOCK}"),
            *(f"--max-num-queued-reqs={MAX_QUEUED}", "--enable-prompt-tokens-details"),
            *("--disable-access-log-for-endpoints=/metrics", *arguments),
        )

    environment = {
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "OMP_NUM_THREADS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # has /sleep and /wake_up
        "PYTHONDONTWRITEBYTECODE": "",  # the next start takes a third of the time
    }
    return Process(folder, command, "/health", free_ports(1), environment, deadline=START_SECONDS)


def chat(text: str, tokens: int = 8, **more: Any) -> dict[str, Any]:
    """Returns a request for exactly this number of tokens."""
    messages = [{"role": "user", "content": text}]
    return {
        "model": MODEL,
        "messages": messages,
        "max_tokens": tokens,
        "ignore_eos": True,
        **more,
    }
