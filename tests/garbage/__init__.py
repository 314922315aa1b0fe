"""The law of garbage: one strange line, key or number costs what depends on it, and nothing else."""
