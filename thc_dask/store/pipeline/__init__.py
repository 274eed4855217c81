"""Stored chunks read, checked, decoded and counted while in cache, many in one call.

Threads that come back to the interpreter after each step of each chunk wait there for one another.
Here the chunks of a shard are one call, and follow one another through memory of the size of one.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Vox
from thc_dask.kernels.histogram import Jobs, counter
from thc_dask.native import address_of, load
from thc_dask.store import zstd
from thc_dask.store.shards import OpenShard, scratch

COMPILED = "thc_dask.store.pipeline.compiled"
DECODE, COUNT = 0, 1
PAGE = 2**16  # room for chunks grows in such steps


class BrokenError(Exception):
    """A chunk could not be read or decoded; who reads it by itself hears why."""


@cache
def can() -> bool:
    """Whether this system has all that a pipeline calls."""
    return hasattr(os, "pread") and zstd.is_callable()


@cache
def _pread() -> int:
    """Return the address of the system's ``pread``, whose offsets have 64 bits."""
    library = ctypes.CDLL(None)
    function = getattr(library, "pread64", None) or library.pread
    return address_of(function)


class Pipeline:
    """What is to be done with chunks, one after the other by their numbers; ``run`` does it."""

    def __init__(self) -> None:
        self._steps: dict[int, list[tuple[int, ...]]] = {}
        self._jobs: list[Jobs] = []
        self._shards: set[OpenShard] = set()
        self._memory: dict[str, tuple[NDArray[Any], int]] = {}
        self._longest = 0

    def decode(self, number: int, shard: OpenShard, place: Vox, use: str) -> NDArray[Any]:
        """Have a stored chunk decoded; return the array that holds it while its number is done.

        ``use`` names the memory, in which the next chunk takes its place.
        """
        file, start, size = shard.source(place)
        if use not in self._memory:
            into = scratch.array(use, shard.chunk, shard.dtype)
            self._memory[use] = into, into.ctypes.data
        into, address = self._memory[use]
        step = (DECODE, file, start, size, address, into.nbytes)
        self._steps.setdefault(number, []).append(step)
        self._longest = max(self._longest, size)
        self._shards.add(shard)  # its bytes must stay where they are
        return into

    def count(self, jobs: Jobs) -> None:
        """Have blocks counted, each once the chunk of its number is decoded."""
        for number, call in jobs.calls().items():
            self._steps.setdefault(number, []).append((COUNT, *call))
        self._jobs.append(jobs)

    def run(self) -> None:
        """Do it.

        Raises
        ------
        BrokenError
            A chunk could not be read or decoded. Some others have been counted.
        """
        steps = np.array([s for _, some in sorted(self._steps.items()) for s in some], np.int64)
        failed = np.zeros(1, np.int64)
        stored = scratch.array("stored", (-(-self._longest // PAGE) * PAGE,), np.dtype(np.uint8))
        load(COMPILED)["run"](
            steps.ctypes.data, len(steps), *zstd.decompressor(), _pread(), stored.ctypes.data,
            *counter(), failed.ctypes.data,
        )  # fmt: skip
        if failed[0]:
            raise BrokenError
