"""Prometheus exporter for one inference host: GPUs, containers and Triton on one /metrics."""

__version__ = "1.0.0"
