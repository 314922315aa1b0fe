"""Simulated GPUs, for demonstrations on a host without a GPU."""
