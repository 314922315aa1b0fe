"""Simulated GPUs, for demonstrations on a host without GPUs."""
