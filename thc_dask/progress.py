"""How far a job has come, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@dataclass(frozen=True)
class Standing:
    """How far a job has come."""

    done: int
    """Units finished, by an earlier run too."""
    total: int
    """Units in all."""
    kept: int = 0
    """Units an earlier run finished: they are done, but say nothing of the pace."""
    read_bytes: int | None = None
    """What the source gave in this run, as the source stores a voxel; None if not known."""
    written_bytes: int | None = None
    """What this run wrote, after compression; None if not known."""
    step: str = ""
    """What is being done, where a job has steps with a count each."""


@runtime_checkable
class Watcher(Protocol):
    """A progress callback that wants to know all there is to know."""

    def watch(self, standing: Standing) -> None:
        """Take note of how far the job has come."""


def tell(progress: Progress | None, standing: Standing) -> None:
    """Call ``progress``, if there is one; a ``Watcher`` gets the whole record.

    >>> tell(print, Standing(2, 8, read_bytes=512))
    2 8
    """
    if isinstance(progress, Watcher):
        progress.watch(standing)
    elif progress is not None:
        progress(standing.done, standing.total)
