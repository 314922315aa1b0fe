"""The GPU source: NVIDIA GPUs, read through NVML."""
