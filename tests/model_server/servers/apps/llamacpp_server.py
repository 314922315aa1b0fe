"""llama.cpp's server, two slots of 2048 tokens: `python llamacpp_server.py MODEL PORT`.

From xllamacpp: its wheel needs only AVX2. The prebuilt llama-server of others dies of SIGILL on a
CPU without AMX.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import signal
import sys

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.model_alias = {"tiny"}
parameters.hostnames = ["127.0.0.1"]
parameters.port = int(sys.argv[2])
parameters.endpoint_metrics = True
parameters.endpoint_slots = True
parameters.n_ctx = 4096
parameters.n_parallel = 2
parameters.n_threads_http = 4
parameters.cpuparams.n_threads = 1
parameters.cpuparams_batch.n_threads = 1
parameters.warmup = False
parameters.ui = False
server = xllamacpp.Server(parameters)
signal.pause()
