"""Latency histograms from the traces that Triton servers send (OTLP/HTTP)."""
