"""The table of all intensities, put together while the image is written."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.grid import Extent, blocks
from thc_dask.pairs import pair_of_image, table_of_image
from thc_dask.store import metadata
from thc_dask.store.imagecounts import Gathering
from thc_dask.store.layout import Level
from thc_dask.store.tables import write_table
from thc_dask.store.target import Target
from thc_dask.tallies import Task

READS_AT_A_TIME = 64  # far away most of it is waiting


class ImageTable:
    """What the columns of the finest level have counted.

    Parameters
    ----------
    target
        What is being written, and counted.
    level
        Its finest level.
    """

    def __init__(self, target: Target, level: Level) -> None:
        self._target, self._level = target, level
        self._found = Gathering(level.chunk, level.grid.shape[0])

    def add(self, extent: Extent, counts: NDArray[np.uint32]) -> None:
        """Add what a column of this process has counted, while others are being made."""
        self._found.add(extent, counts)

    def write(self, digest: str) -> dict[str, metadata.Node]:
        """Write the table of the image with that digest; return its nodes by path."""
        grid = self._level.grid
        columns = blocks(grid.shape, self._level.shard)
        others = [extent for extent in columns if extent.start not in self._found]
        with ThreadPoolExecutor(READS_AT_A_TIME) as pool:
            taken = zip(others, pool.map(self._take, others), strict=True)
            self._count([extent for extent, done in taken if not done])
        table = table_of_image(grid, digest)
        return write_table(self._target.location, grid, table, *self._found.tables())

    def _take(self, extent: Extent) -> bool:
        """Add what another process has left of a column; return whether it has."""
        counts = self._target.counts_of(self._level.shard_place(extent))
        if counts is not None:
            self._found.add(extent, counts)
        return counts is not None

    def _count(self, columns: Sequence[Extent]) -> None:
        """Count columns as they are stored: what an earlier run had counted went with it."""
        image, by_start = self._target.reader(self._level), {e.start: e for e in columns}
        task = Task((pair_of_image(image),), self._level.grid.extent)
        places = [[(z, y, x) for z, y, x in image.places([e]).tolist()] for e in columns]
        for (found,) in schedule.run(task, places, what=task.named, verb="count"):
            z, y, x = (found.places[0] * self._level.chunk).tolist()
            numbers = np.concatenate([found.planes[:, 0], found.chunks.counts])
            self._found.add(by_start[z, y, x], numbers[:, None])
