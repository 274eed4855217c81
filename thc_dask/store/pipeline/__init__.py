"""What is done with chunks while they are in cache, many of them in one call.

Threads that come back to the interpreter after each step of each chunk wait there for one another.
Here the chunks of a shard are one call, and follow one another through memory of the size of one:
``Decoding`` reads, checks, decodes and counts them, ``Encoding`` gathers, halves, counts and
compresses them.
"""

from __future__ import annotations

import ctypes
import math
import os
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Vox
from thc_dask.kernels.histogram import Jobs, counter
from thc_dask.native import address_of, load, ready, start_of
from thc_dask.store import zstd
from thc_dask.store.shards import Codec, OpenShard, scratch

COMPILED = "thc_dask.store.pipeline.compiled"
DECODE, COUNT = 0, 1
STEP_WIDTH = 6  # numbers that make a step
BYTE = np.dtype(np.uint8)
NO_HALF = (0, 0, 0)
HASHES = 2**16  # a bit of each
JOB_ROOM_BYTES = 512  # for a job of counting that machine code writes, and the rows it met
COUNTS_BYTES = 4 * 256
NOT_COUNTED = (0, 0)
PAGE = 2**16  # room for chunks grows in such steps


class BrokenError(Exception):
    """A chunk could not be read or decoded; who reads it by itself hears why."""


@cache
def can() -> bool:
    """Whether this system has all that a pipeline calls."""
    return hasattr(os, "pread") and zstd.is_callable()


def can_encode() -> bool:
    """Whether chunks can be encoded without waiting for a compiler."""
    return can() and ready(COMPILED) is not None


def compile_pipeline() -> None:
    """Have the machine code compiled, once a machine: seconds that large volumes repay."""
    if can():
        load(COMPILED)


@cache
def _pread() -> int:
    """Return the address of the system's ``pread``, whose offsets have 64 bits."""
    library = ctypes.CDLL(None)
    function = getattr(library, "pread64", None) or library.pread
    return address_of(function)


class Decoding:
    """What is to be done with stored chunks, in the order of their numbers; ``run`` does it."""

    def __init__(self) -> None:
        self._steps: list[NDArray[np.int64]] = []
        self._jobs: list[Jobs] = []
        self._shards: set[OpenShard] = set()
        self._memory: dict[str, tuple[NDArray[Any], int]] = {}
        self._longest = 0

    def decode(
        self, numbers: NDArray[np.int64], shard: OpenShard, entries: NDArray[np.uint64], use: str
    ) -> NDArray[Any]:
        """Have stored chunks decoded; return the array that holds each while its number is done.

        ``entries`` are those of the shard's index. ``use`` names the memory, in which one chunk
        takes the place of the other.
        """
        if use not in self._memory:
            into = scratch.array(use, shard.chunk, shard.dtype)
            self._memory[use] = into, into.ctypes.data
        into, address = self._memory[use]
        steps = np.empty((len(numbers), 1 + STEP_WIDTH), np.int64)
        steps[:, 0], steps[:, 1] = 2 * numbers, DECODE
        steps[:, 2:5] = shard.sources(entries)
        steps[:, 5:] = address, into.nbytes
        self._steps.append(steps)
        self._longest = max(self._longest, int(steps[:, 4].max(initial=0)))
        self._shards.add(shard)  # its bytes must stay where they are
        return into

    def count(self, jobs: Jobs) -> None:
        """Have blocks counted, each once the chunk of its number is decoded."""
        calls = jobs.calls()
        steps = np.empty((len(calls), 1 + STEP_WIDTH), np.int64)
        steps[:, 0], steps[:, 1] = 2 * calls[:, 0] + 1, COUNT
        steps[:, 2:] = calls[:, 1:]
        self._steps.append(steps)
        self._jobs.append(jobs)

    def run(self) -> None:
        """Do it.

        Raises
        ------
        BrokenError
            A chunk could not be read or decoded. Some others have been counted.
        """
        if not self._steps:
            return
        steps = np.concatenate(self._steps)
        steps = steps[np.argsort(steps[:, 0], kind="stable"), 1:].copy()
        failed = np.zeros(1, np.int64)
        stored = scratch.array("stored", (-(-self._longest // PAGE) * PAGE,), BYTE)
        load(COMPILED)["decode"](
            steps.ctypes.data, len(steps), *zstd.literals(), *zstd.decompressor(), _pread(),
            stored.ctypes.data, *counter(), failed.ctypes.data,
        )  # fmt: skip
        if failed[0]:
            raise BrokenError


class Encoding:
    """Chunks of one size to be made from larger blocks of voxels, one after the other.

    Parameters
    ----------
    codec
        How they are compressed.
    chunk
        Voxels (z, y, x) of each; where a block ends before, zeros fill it up.
    dtype
        Of the voxels.
    halve
        Address of the machine code of ``kernels.mean`` for that type.
    """

    def __init__(self, codec: Codec, chunk: Vox, dtype: np.dtype[Any], halve: int = 0) -> None:
        self._codec, self._halve = codec, halve
        self._counted = NOT_COUNTED
        self._bytes = chunk[0], chunk[1], chunk[2] * dtype.itemsize
        self._chunks: list[tuple[int, ...]] = []
        self.memory = scratch.array("chunk", chunk, dtype)
        """The chunk that is being made."""

    def count(self, planes: int, chunks: int) -> None:
        """Have the voxels of chunks counted, which are bytes: into tables of 256 uint32 each.

        ``planes`` is the address of those of the planes, ``chunks`` of those of the chunks in
        their order.
        """
        self._counted = planes, chunks

    def add(
        self, address: int, steps: tuple[int, int], shape: tuple[int, int, int],
        half: tuple[int, int, int] = NO_HALF,
    ) -> None:  # fmt: skip
        """Ask for the chunk of ``shape`` (z, y, bytes) at an address; steps are in bytes.

        ``half`` is where its half goes, address and steps in half words of four bytes.
        """
        self._chunks.append((address, *steps, *shape, *half, 0))

    @property
    def most_bytes(self) -> int:
        """What one chunk may take."""
        n = math.prod(self._bytes)
        return n + (n >> 8) + 512  # never less than ZSTD_compressBound and a checksum

    def memory_for_all(self) -> memoryview:
        """Return memory of this thread that holds them all."""
        n = len(self._chunks) * self.most_bytes
        return scratch.array("encoded", (n,), BYTE).data

    def run(self, into: memoryview, first: int = 0) -> NDArray[np.int64]:
        """Make chunks from ``first`` on, as many as there is room for ``most_bytes`` each.

        Returns (chunk, [bytes, crc32c]) of those that were made. Their frames lie one after the
        other, each with its checksum behind it. A chunk of zeros has no bytes.
        """
        chunks = self._numbers
        found = np.zeros((len(chunks) - first, 2), np.int64)  # the last one says how many
        load(COMPILED)["encode"](
            start_of(chunks[first:]), len(found) - 1, start_of(self.memory),
            start_of(np.frombuffer(into, np.uint8)), len(into), self.most_bytes,
            *zstd.compressor(self._codec.parameters, self._codec.parameters_of_noise),
            start_of(scratch.array("hashes", (HASHES // 8,), BYTE)), self._halve,
            0 if self._counted == NOT_COUNTED else counter()[0], start_of(found),
        )  # fmt: skip
        if found[-1, 0] <= 0:
            raise MemoryError("zstd could not compress a chunk")
        return found[: found[-1, 0]]

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        """What machine code is told: chunks, and behind them what they have in common."""
        numbers = np.array([*self._chunks, (*self._bytes, *[0] * 7)], np.int64)
        if self._counted != NOT_COUNTED:
            planes, chunks = self._counted
            _, tally, seen = counter()
            job = start_of(scratch.array("job", (JOB_ROOM_BYTES,), BYTE))
            numbers[:-1, 9] = chunks + COUNTS_BYTES * np.arange(len(self._chunks))
            numbers[-1, 3:7] = planes, tally, seen, job
        return numbers
