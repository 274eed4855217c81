"""What voxels become where tiles overlap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import AXES, Extent
from thc_dask.reader import Reader
from thc_dask.sources.mosaic.manifest import MOST_FEATHER

DEEPEST = MOST_FEATHER ** len(AXES)  # no weight is larger


@dataclass(frozen=True)
class Tile:
    """A tile in its place."""

    reader: Reader
    extent: Extent
    """Its voxels in the mosaic."""

    def weights(self, axis: int, start: int, stop: int, feather: int) -> NDArray[np.int64]:
        """Return the distances, in voxels, of a range of the mosaic from outside the tile.

        >>> from types import SimpleNamespace
        >>> Tile(SimpleNamespace(), Extent((0, 0, 10), (1, 1, 16))).weights(2, 11, 16, 2).tolist()
        [2, 2, 2, 2, 1]
        """
        index = np.arange(start, stop)
        low, high = index - self.extent.start[axis] + 1, self.extent.stop[axis] - index
        return np.minimum(np.minimum(low, high), feather)


# A tile and its voxels of a cell.
Layer = tuple[Tile, NDArray[Any]]


def cells(box: Extent, extents: Sequence[Extent]) -> list[Extent]:
    """Return the boxes into which the faces of ``extents`` cut a box.

    >>> [str(cell) for cell in cells(Extent((0, 0, 0), (1, 1, 9)), [Extent((0, 0, 4), (1, 1, 6))])]
    ['0:1,0:1,0:4', '0:1,0:1,4:6', '0:1,0:1,6:9']
    """
    ranges = [
        itertools.pairwise(sorted({e for x in (box, *extents) for e in (x.start[a], x.stop[a])}))
        for a in range(len(AXES))
    ]
    return [
        Extent((z0, y0, x0), (z1, y1, x1))
        for (z0, z1), (y0, y1), (x0, x1) in itertools.product(*ranges)
    ]


def average(out: NDArray[Any], cell: Extent, layers: Sequence[Layer], feather: int) -> None:
    """Fill a cell with means, each voxel weighed by how deep it lies in its tile.

    What is not finite has no weight beside what is; where nothing is finite, the sum stays.
    """
    exact = out.dtype.kind in "ui" and out.dtype.itemsize <= 2
    real = out.dtype.kind == "f"
    weights = [_depths(tile, cell, feather) for tile, _ in layers]
    for i, plane in enumerate(out):
        total = np.zeros(plane.shape, np.int64 if exact else np.float64)
        weight = np.zeros(plane.shape, np.int64)
        lost = None
        for (along_z, across), (_, voxels) in zip(weights, layers, strict=True):
            here, values = across * along_z[i], voxels[i].astype(total.dtype)
            if real and not (finite := np.isfinite(values)).all():
                lost = _sum_of_odd(lost, values, finite)
                here *= finite
                values[~finite] = 0
            total += here * values
            weight += here
        if exact:
            plane[...] = _rounded(total, weight)
        elif lost is None:
            mean = total / weight
            plane[...] = mean if real else np.rint(mean)
        else:
            plane[...] = np.divide(total, weight, out=lost, where=weight > 0)


def _sum_of_odd(
    before: NDArray[np.float64] | None, values: NDArray[np.float64], finite: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Add up what is not finite: equal infinities stay what they are, all else is NaN."""
    odd = np.where(finite, 0.0, values)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return odd if before is None else before + odd


def choose(out: NDArray[Any], cell: Extent, layers: Sequence[Layer]) -> None:
    """Fill a cell with voxels, each from the tile it lies deepest in, of equals from the first.

    What is finite comes before what is not, however deep that lies.
    """
    weights = [_depths(tile, cell, MOST_FEATHER) for tile, _ in layers]
    for i, plane in enumerate(out):
        best = np.full(plane.shape, np.iinfo(np.int64).min)
        for (along_z, across), (_, voxels) in zip(weights, layers, strict=True):
            here = across * along_z[i]
            if out.dtype.kind == "f":
                here[~np.isfinite(voxels[i])] -= DEEPEST
            np.copyto(plane, voxels[i], where=here > best)
            np.maximum(best, here, out=best)


def _depths(tile: Tile, cell: Extent, feather: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the weights of a tile in a cell: those along z, and those of a plane (y, x)."""
    z, y, x = (tile.weights(a, cell.start[a], cell.stop[a], feather) for a in range(len(AXES)))
    return z, y[:, None] * x


def _rounded(total: NDArray[np.int64], weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return quotients rounded half to even.

    >>> _rounded(np.array([5, 7, -5, 8]), np.array([2, 2, 2, 3])).tolist()
    [2, 4, -2, 3]
    """
    quotient, rest = np.divmod(total, weight)
    up = (2 * rest > weight) | ((2 * rest == weight) & (quotient % 2 == 1))
    result: NDArray[np.int64] = quotient + up
    return result
