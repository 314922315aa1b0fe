"""The problems of a reading, bounded in number; the remedies of a missing engine.

It imports no SDK: the source looks for an engine without it.
"""

from __future__ import annotations

from exporter.errors import BadData, SourceError

ENGINE_INSTALLED_REMEDY = (
    "is Docker installed here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another socket or Podman set DOCKER_HOST"
)
SOCKET_PERMISSION_REMEDY = (
    "run as root, or add the user to the socket's group (usually `docker`); note that any user of"
    " the socket can become root on this host"
)

# Problems listed one by one in a reading; more are counted in one line.
MAX_PROBLEMS = 20


def bounded_problems(problems: list[SourceError]) -> tuple[SourceError, ...]:
    """Returns the first MAX_PROBLEMS problems, and one with the number of the others."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    more = len(problems) - MAX_PROBLEMS
    return (*problems[:MAX_PROBLEMS], BadData(f"and {more} more problems of this kind"))
