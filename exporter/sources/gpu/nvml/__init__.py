"""NVML (libnvidia-ml.so.1) through pynvml: all calls to the NVIDIA driver."""
