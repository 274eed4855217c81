"""Intensities of the whole image by plane and by chunk, counted while it is written.

A column of shards counts its chunks while they are in cache for compression. What it found lies
beside its receipt until all columns are done, so that a conversion that goes on counts nothing
twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import MissingError
from thc_dask.grid import Extent, Vox
from thc_dask.kernels.histogram import Jobs
from thc_dask.store.location import Location, require
from thc_dask.store.tableparts import Joined, Sparse, joined

N_INTENSITIES = 256
SUFFIX = ".counts"
READS_AT_A_TIME = 64  # far away most of it is waiting


def counts_key(receipt_key: str) -> str:
    """Return where the counts of a column lie, beside its receipt."""
    return receipt_key.removesuffix(".json") + SUFFIX


class ImageCounts:
    """The counts of one column.

    Parameters
    ----------
    extent
        The voxels of level 0 that it holds.
    chunk
        Voxels (z, y, x) of a chunk.
    """

    def __init__(self, extent: Extent, chunk: Vox) -> None:
        self._chunk = chunk
        z, y, x = (-(-n // c) for n, c in zip(extent.shape, chunk, strict=True))
        n_planes = extent.shape[0]
        self._numbers = np.zeros((n_planes + z * y * x, 1, N_INTENSITIES), np.uint32)
        """Of planes, then of chunks: as they will be written."""
        self._planes = self._numbers[:n_planes]
        self._chunks = self._numbers[n_planes:].reshape(z, y, x, 1, N_INTENSITIES)

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
        planes, chunks = self._planes[inside[0]], self._chunks[z, y]
        return planes.ctypes.data, chunks.ctypes.data

    def encoded(self) -> memoryview:
        """Return them as bytes: planes, then chunks."""
        # To compress what is soon read again and removed takes longer than to write it.
        return self._numbers.astype("<u4", copy=False).data.cast("B")


class Gathering:
    """The counts of all columns, taken together as these are finished."""

    def __init__(self, location: Location, chunk: Vox, n_planes: int) -> None:
        self._location, self._chunk = location, chunk
        self._planes = np.zeros((n_planes, 1, N_INTENSITIES), np.int64)
        self._parts: dict[str, tuple[NDArray[np.int64], Sparse]] = {}

    def add(self, key: str, extent: Extent) -> None:
        """Add what a column has left at ``key``, if that was not done before.

        Raises
        ------
        MissingError
            It is gone.
        """
        if key not in self._parts:
            self._add(key, extent, require(self._location, key))

    def add_all(self, columns: Iterable[tuple[str, Extent]]) -> None:
        """Add what many columns have left, read side by side."""
        left = [column for column in columns if column[0] not in self._parts]
        with ThreadPoolExecutor(READS_AT_A_TIME) as pool:
            found = pool.map(lambda column: require(self._location, column[0]), left)
            for column, data in zip(left, found, strict=True):
                self._add(*column, data)

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Joined]:
        """Return the counts by plane (plane, 1, intensity), then of all chunks.

        Those are their places (chunk, 3) and what these hold.
        """
        return self._planes, *joined(list(self._parts.values()), N_INTENSITIES)

    def _add(self, key: str, extent: Extent, data: bytes) -> None:
        numbers = np.frombuffer(data, "<u4").reshape(-1, N_INTENSITIES)
        n = extent.shape[0]
        sizes = [-(-m // c) for m, c in zip(extent.shape, self._chunk, strict=True)]
        if len(numbers) != n + math.prod(sizes):
            raise MissingError(f"{self._location.url}/{key} is not whole; convert again")
        self._planes[extent.start[0] : extent.stop[0], 0] += numbers[:n]
        first = [a // c for a, c in zip(extent.start, self._chunk, strict=True)]
        places = np.indices(sizes).reshape(3, -1).T + np.array(first)
        chunks = np.arange(len(places))
        counts = numbers[n:].astype(np.uint32, copy=False)
        self._parts[key] = places, Sparse(chunks, np.zeros_like(chunks), counts)
