"""NVML: every call to the NVIDIA driver's library, through pynvml."""
