"""The TIFF slices as a dask array, for the contenders that take one.

A block is a row of shards: whole rows of pages come with one read each, and no two blocks share a
shard.
"""

from __future__ import annotations

import dask.array as da
import numpy as np
from contender import Slices


def as_dask(slices: Slices, shard: int) -> da.Array:
    """Return the slices as a lazy array (z, y, x) in blocks of ``shard, shard, all of x``."""
    chunks = da.core.normalize_chunks((shard, shard, slices.shape[2]), slices.shape)

    def block(block_info=None) -> np.ndarray:
        ranges = block_info[None]["array-location"]
        out = np.empty([b - a for a, b in ranges], slices.dtype)
        return slices.read(out, ranges[0][0], ranges[1][0])

    empty = np.empty((0, 0, 0), slices.dtype)
    return da.map_blocks(block, chunks=chunks, dtype=slices.dtype, meta=empty)
