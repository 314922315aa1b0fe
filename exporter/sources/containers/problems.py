"""The problems of a reading, bounded in number; the remedies of a missing engine.

It imports no SDK: the source looks for an engine without it.
"""

from __future__ import annotations

from exporter.errors import BadData, SourceError
from exporter.faults import FaultTotals

ENGINE_INSTALLED_REMEDY = (
    "is Docker installed here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another socket or Podman set DOCKER_HOST, on"
    " a Kubernetes node --containers.cri-endpoint"
)
CRI_INSTALLED_REMEDY = (
    "is containerd or CRI-O running here? In a pod, mount the folder of its socket"
    " (/run/containerd, /run/crio); for another socket set --containers.cri-endpoint"
)
CRI_PERMISSION_REMEDY = "run as root; note that any user of the socket can become root on this host"
SOCKET_PERMISSION_REMEDY = (
    "run as root, or add the user to the socket's group (usually `docker`); note that any user of"
    " the socket can become root on this host"
)

# Problems listed one by one in a reading; more are counted in one line.
MAX_PROBLEMS = 20


def without_traceback(problem: SourceError) -> SourceError:
    """Returns the problem without its traceback and causes: their frames keep the whole reply."""
    problem.__traceback__ = problem.__cause__ = problem.__context__ = None
    return problem


class Problems:
    """The first MAX_PROBLEMS problems, and the number of the others, which are not kept.

    faults: of the parsed replies; a problem for each subject.
    """

    def __init__(self) -> None:
        self._first: list[SourceError] = []
        self._more = 0
        self.faults = FaultTotals()

    def append(self, problem: SourceError) -> None:
        """Adds a problem."""
        if len(self._first) >= MAX_PROBLEMS:
            self._more += 1
        else:
            self._first.append(without_traceback(problem))

    def all(self) -> tuple[SourceError, ...]:
        """Returns the first problems, one with the number of the others, and the faults."""
        more = [BadData(f"and {self._more} more problems of this kind")] if self._more else []
        return (*self._first, *more, *self.faults.problems())


def bounded_problems(problems: list[SourceError]) -> tuple[SourceError, ...]:
    """Returns the first MAX_PROBLEMS problems, and one with the number of the others."""
    bounded = Problems()
    for problem in problems:
        bounded.append(problem)
    return bounded.all()
