"""A stand-in for libnvidia-ml.so.1, compiled from C and controlled by a file."""
