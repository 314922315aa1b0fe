"""The law of garbage: a strange line, key or number costs what depends on it, and nothing else."""
