"""inference-exporter: GPUs, containers and Triton of one inference host on one /metrics."""

__version__ = "0.1.0"
