"""The voxels of patches: some at a time, wherever they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent
from thc_dask.kernels.windows import Size
from thc_dask.patches.selection import Selection
from thc_dask.reader import read
from thc_dask.store.shards import ArrayReader

BLOCK_BYTES = 2**20  # of patches that are read, kept and compressed together


@dataclass(frozen=True)
class Cut:
    """Reads patches from an image."""

    array: ArrayReader
    size: Size

    def __call__(self, starts: NDArray[np.int64]) -> NDArray[Any]:
        """Return (patch, y, x) from the first voxels (patch, 3): z, y, x."""
        height, width = self.size
        out = np.empty((len(starts), height, width), self.array.dtype)
        for patch, (z, y, x) in zip(out, starts.tolist(), strict=True):
            patch[...] = read(self.array, Extent((z, y, x), (z + 1, y + height, x + width)))[0]
        return out


@dataclass(frozen=True)
class Numbered:
    """Reads one block of patches, and says which."""

    cut: Cut

    def __call__(self, item: tuple[int, NDArray[np.int64]]) -> tuple[int, NDArray[Any]]:
        """Return the number of the first patch and the voxels (patch, y, x)."""
        first, starts = item
        return first, self.cut(starts)


def cut_of(selection: Selection) -> Cut:
    """Return what reads the patches of a selection."""
    request = selection.request
    return Cut(request.store.image(request.level), request.size)


def blocks(selection: Selection) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the number of the first patch of each block, and where its patches are."""
    step = block_length(selection)
    for first in range(0, len(selection.starts), step):
        yield first, selection.starts[first : first + step]


def block_length(selection: Selection) -> int:
    """Return how many patches make a block."""
    height, width = selection.request.size
    itemsize = cut_of(selection).array.dtype.itemsize
    return max(1, min(len(selection.starts), BLOCK_BYTES // (height * width * itemsize)))


def lazy(selection: Selection) -> Any:
    """Return the voxels (patch, y, x) as a dask array of a block a chunk; nothing is read."""
    import dask
    import dask.array as da

    cut = cut_of(selection)
    parts = [
        da.from_delayed(
            dask.delayed(cut)(starts), (len(starts), *selection.request.size), cut.array.dtype
        )
        for _, starts in blocks(selection)
    ]
    return da.concatenate(parts)
