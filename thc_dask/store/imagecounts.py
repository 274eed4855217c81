"""Intensities of the whole image by plane and by chunk, counted while it is written.

A column of shards counts its chunks while they are in cache for compression. What other processes
found stands behind the receipts of columns until all are done.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.kernels.histogram import Jobs
from thc_dask.store.tableparts import Joined, Sparse, joined

N_INTENSITIES = 256
HEAD = struct.Struct("<IHHB")  # how many are counted, first and last intensity, bytes of a count
_TYPES = (np.dtype("<u2"), np.dtype("<u4"))
_COUNT_BYTES = 4

Memory = Callable[[Vox, np.dtype[np.uint32]], NDArray[np.uint32]]
"""Gives an array with any content."""


class ImageCounts:
    """The counts of one column.

    Parameters
    ----------
    extent
        The voxels of level 0 that it holds.
    chunk
        Voxels (z, y, x) of a chunk.
    memory
        Where the counts are to be, until they are packed.
    """

    def __init__(self, extent: Extent, chunk: Vox, memory: Memory = np.empty) -> None:
        self._chunk = chunk
        z, y, x = (-(-n // c) for n, c in zip(extent.shape, chunk, strict=True))
        n_planes = extent.shape[0]
        self.numbers = memory((n_planes + z * y * x, 1, N_INTENSITIES), np.dtype(np.uint32))
        """Of planes, then of chunks: (plane and chunk, 1, intensity)."""
        self.numbers[...] = 0
        self._address = self.numbers.ctypes.data
        self._planes = self.numbers[:n_planes]
        self._chunks = self.numbers[n_planes:].reshape(z, y, x, 1, N_INTENSITIES)

    def add(self, row: NDArray[np.uint8], shape: Vox, inside: Vox) -> None:
        """Count chunks side by side, (chunk, z, y, x), of which ``shape`` voxels (z, y, x) exist.

        ``inside`` is where they begin in the column, in voxels.
        """
        n_z, n_y, n_x = shape
        place = tuple(p // c for p, c in zip(inside, self._chunk, strict=True))
        total = self._chunks[place[0], place[1], place[2] : place[2] + len(row)]
        jobs = Jobs(self._planes, total)
        for i, chunk in enumerate(row):
            jobs.add(0, chunk[:n_z, :n_y, : n_x - i * self._chunk[2]], inside[0], i)
        jobs.run()

    def addresses(self, inside: Vox) -> tuple[int, int]:
        """Return where the counts go of planes and chunks from ``inside`` the column on.

        That is where a row of chunks begins; the counts of those that follow come after it.
        """
        z, y, _ = (p // c for p, c in zip(inside, self._chunk, strict=True))
        row, (to_z, to_y, *_) = self._planes.strides[0], self._chunks.strides
        first = self._address + row * len(self._planes)
        return self._address + row * inside[0], first + to_z * z + to_y * y


def held_bytes(shard: Vox, chunk: Vox) -> int:
    """Return what the counts of a column take while it is made."""
    n_chunks = math.prod(s // c for s, c in zip(shard, chunk, strict=True))
    return (shard[0] + n_chunks) * N_INTENSITIES * _COUNT_BYTES


def packed(numbers: NDArray[np.uint32]) -> bytes:
    """Return the counts of a column as bytes: without what no voxel has, as narrow as they are."""
    # To compress what is soon read again and removed takes longer than to write it.
    most = numbers.max(axis=(0, 1))
    used = np.flatnonzero(most)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    dtype = _TYPES[int(most.max()) > np.iinfo(_TYPES[0]).max]
    some = numbers[:, :, first : last + 1].astype(dtype)
    return HEAD.pack(len(numbers), first, last, dtype.itemsize) + some.tobytes()


def unpacked(data: bytes) -> NDArray[np.uint32] | None:
    """Return what was ``packed``, (plane and chunk, 1, intensity); None where bytes are missing."""
    if len(data) < HEAD.size:
        return None
    n, first, last, itemsize = HEAD.unpack_from(data)
    if len(data) != HEAD.size + n * (last + 1 - first) * itemsize:
        return None
    dtype = next(t for t in _TYPES if t.itemsize == itemsize)
    some = np.frombuffer(data, dtype, offset=HEAD.size).reshape(n, 1, -1)
    numbers = np.zeros((n, 1, N_INTENSITIES), np.uint32)
    numbers[:, :, first : last + 1] = some
    return numbers


class Gathering:
    """The counts of all columns, taken together as these are finished."""

    def __init__(self, chunk: Vox, n_planes: int) -> None:
        self._chunk = chunk
        self._planes = np.zeros((n_planes, 1, N_INTENSITIES), np.int64)
        self._parts: dict[Vox, tuple[NDArray[np.int64], Sparse]] = {}
        self._lock = threading.Lock()  # columns are finished side by side

    def __contains__(self, start: Vox) -> bool:
        """Whether the column that begins there has been added."""
        return start in self._parts

    def add(self, extent: Extent, numbers: NDArray[np.uint32]) -> None:
        """Add the counts of a column, once; the array may be used again afterwards."""
        n = extent.shape[0]
        first = [a // c for a, c in zip(extent.start, self._chunk, strict=True)]
        sizes = [-(-m // c) for m, c in zip(extent.shape, self._chunk, strict=True)]
        places = np.indices(sizes).reshape(3, -1).T + np.array(first)
        chunks = np.arange(len(places))
        sparse = Sparse(chunks, np.zeros_like(chunks), numbers[n:, 0].copy())
        with self._lock:
            if extent.start not in self._parts:
                self._planes[extent.start[0] : extent.stop[0]] += numbers[:n]
                self._parts[extent.start] = places, sparse

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Joined]:
        """Return the counts by plane (plane, 1, intensity), then of all chunks.

        Those are their places (chunk, 3) and what these hold.
        """
        return self._planes, *joined(list(self._parts.values()), N_INTENSITIES)
