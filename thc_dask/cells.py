"""Counts for cells of any size, exactly, from voxels: lazily, one task a shard.

What the tables of a store cannot answer: bins along y and x, planes of a box, voxels that
normalisation did not clip.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.pairs import Pair, Still, tasks
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader, OpenShard

Bins = tuple[tuple[int, int], ...]

MERGED_AT_ONCE = 8  # parts of shards that are added up before they go on
ENDS = (0, 255)  # intensities that hold what normalisation clipped


@dataclass(frozen=True)
class Cells:
    """Boxes of voxels on a grid with gaps: every bin along z meets every one along y and x."""

    bins: tuple[Bins, Bins, Bins]
    """Half-open ranges of voxels along z, y, x; rising, none overlaps the next."""

    @property
    def shape(self) -> Vox:
        """How many bins there are along each axis."""
        z, y, x = self.bins
        return len(z), len(y), len(x)

    def touched(self, extent: Extent, axis: int) -> range:
        """Return which bins along an axis hold voxels of a box."""
        starts, stops = self._ends[axis]
        first = bisect_right(stops, extent.start[axis])
        return range(first, max(first, bisect_left(starts, extent.stop[axis])))

    @cached_property
    def _ends(self) -> list[tuple[list[int], list[int]]]:
        return [([a for a, _ in bins], [b for _, b in bins]) for bins in self.bins]

    def cell(self, place: Vox) -> Extent:
        """Return the voxels of a cell.

        >>> str(Cells((((0, 4),), ((2, 3), (5, 9)), ((0, 1),))).cell((0, 1, 0)))
        '0:4,5:9,0:1'
        """
        (z0, z1), (y0, y1), (x0, x1) = (self.bins[i][p] for i, p in enumerate(place))
        return Extent((z0, y0, x0), (z1, y1, x1))


def each_plane(planes: Sequence[int] | NDArray[np.int64]) -> Bins:
    """Return one bin for each voxel number.

    >>> each_plane([3, 9])
    ((3, 4), (9, 10))
    """
    return tuple((int(z), int(z) + 1) for z in planes)


Part = tuple[Vox, NDArray[np.int64]]
"""The first cell, and counts of the cells from it on: (z, y, x, row, column)."""


@dataclass(frozen=True)
class _Task:
    """Count the cells of some chunks of one shard, wherever it runs."""

    pair: Pair
    cells: Cells
    within: Extent
    image: ArrayReader | None
    """Where it is 0 or 255 a voxel counts nowhere."""
    still: Still

    def __call__(self, places: Sequence[Vox]) -> Part:
        with self.still.there():
            return self._counted(places)

    def _counted(self, places: Sequence[Vox]) -> Part:
        array = self.pair.rows.array
        parts = {p: self._known(array.chunk_extent(p)) for p in places}
        first, shape = self._block([e for found in parts.values() for e in found])
        # One row more than there are: for voxels that count nowhere.
        n_rows, n_columns = self.pair.rows.n_counted, self.pair.columns.n_counted
        table = np.zeros((*shape, n_rows + 1, n_columns), np.uint32)
        with ExitStack() as stack:
            shards = [stack.enter_context(r.open_shard(places[0])) for r in self._readers]
            for place in places:
                if parts[place]:
                    self._count(table, first, array.chunk_extent(place).start, parts[place],
                                self._decode(shards, place))  # fmt: skip
        counts = table[..., :n_rows, :].astype(np.int64)
        for axis, side in ((3, self.pair.rows), (4, self.pair.columns)):
            if side.n_counted != side.n:
                counts = counts.take(side.codes, axis)
        return first, counts

    def _known(self, chunk: Extent) -> list[Extent]:
        here = chunk.intersect(self.within)
        return [b for e in self.pair.known if (b := e.intersect(here)).n_vox]

    def _block(self, extents: Sequence[Extent]) -> tuple[Vox, Vox]:
        """Return the first cell that the boxes touch, and how many there are along each axis."""
        first, shape = [], []
        for axis in range(3):
            touched = [r for e in extents if (r := self.cells.touched(e, axis))]
            low = min((r.start for r in touched), default=0)
            first.append(low)
            shape.append(max((r.stop for r in touched), default=low) - low)
        return (first[0], first[1], first[2]), (shape[0], shape[1], shape[2])

    def _decode(self, shards: Sequence[OpenShard], place: Vox) -> tuple[NDArray[Any], ...]:
        chunks = []
        for shard, reader in zip(shards, self._readers, strict=True):
            chunk = shard.get(place)
            chunks.append(np.zeros(reader.chunk, reader.dtype) if chunk is None else chunk)
        rows: Any = self.pair.rows.rows(chunks[0])
        if self.pair.rows.single:
            rows = np.zeros_like(rows)
        columns: Any = self.pair.columns.rows(chunks[1])
        if self.image is not None:
            clipped = (chunks[2] == ENDS[0]) | (chunks[2] == ENDS[1])
            rows = np.where(clipped, self.pair.rows.n_counted, rows).astype(np.uint16)
        return rows, columns

    @property
    def _readers(self) -> list[ArrayReader]:
        readers = [self.pair.rows.array, self.pair.columns.array]
        return readers + ([self.image] if self.image is not None else [])

    def _count(
        self, table: NDArray[np.uint32], first: Vox, start: Vox, parts: Sequence[Extent],
        voxels: tuple[NDArray[Any], ...],
    ) -> None:  # fmt: skip
        from thc_dask.kernels.histogram import joint_counts  # compiled: slow to load

        rows, columns = voxels
        scratch = np.zeros((rows.shape[0], *table.shape[3:]), np.uint32)
        z, y, x = start
        for part in parts:
            touched = (self.cells.touched(part, axis) for axis in range(3))
            for cell in itertools.product(*touched):
                box = self.cells.cell((cell[0], cell[1], cell[2])).intersect(part)
                where = box.shift((-z, -y, -x)).slices
                into = table[tuple(c - f for c, f in zip(cell, first, strict=True))]
                joint_counts(rows[where], columns[where], scratch[: box.shape[0]], into)


def cell_counts(
    store: Store, pair: Pair, cells: Cells, within: Extent, unclipped: bool = False
) -> Any:
    """Return the counts of every cell, a lazy dask array (z, y, x, row, column) of int64.

    Parameters
    ----------
    store, pair
        What is counted against what.
    cells
        Where; known voxels only.
    within
        No voxel outside of it counts.
    unclipped
        Leave out voxels with an intensity of 0 or 255.
    """
    import dask
    import dask.array as da

    image = store.image() if unclipped else None
    still = Still.of(store, pair)
    task = _Task(pair, cells, within, image, still)
    shape = (*cells.shape, *pair.shape)
    parts = [dask.delayed(task, pure=True)(list(chunks)) for chunks in tasks([pair], within, None)]
    while len(parts) > MERGED_AT_ONCE:
        parts = [
            dask.delayed(_merged)(parts[i : i + MERGED_AT_ONCE])
            for i in range(0, len(parts), MERGED_AT_ONCE)
        ]
    return da.from_delayed(dask.delayed(_whole)(parts, shape, still), shape, np.int64)


def _merged(parts: Sequence[Part]) -> Part:
    """Return several parts as one that covers them all."""
    parts = [(first, counts) for first, counts in parts if counts.size]
    if not parts:
        return (0, 0, 0), np.zeros((0, 0, 0, 0, 0), np.int64)
    low = np.min([first for first, _ in parts], axis=0)
    high = np.max([np.add(first, counts.shape[:3]) for first, counts in parts], axis=0)
    out = np.zeros((*(high - low), *parts[0][1].shape[3:]), np.int64)
    for first, counts in parts:
        _add(out, tuple((np.array(first) - low).tolist()), counts)
    z, y, x = low.tolist()
    return (z, y, x), out


def _whole(parts: Sequence[Part], shape: tuple[int, ...], still: Still) -> NDArray[np.int64]:
    out = np.zeros(shape, np.int64)
    for first, counts in parts:
        if counts.size:
            _add(out, first, counts)
    return still(out)


def _add(out: NDArray[np.int64], first: tuple[int, ...], counts: NDArray[np.int64]) -> None:
    where = tuple(slice(a, a + n) for a, n in zip(first, counts.shape[:3], strict=True))
    out[where] += counts


def only_axis(axis: int, bins: Bins, extent: Extent, planes: Bins) -> Cells:
    """Return cells with bins along one axis, and along z those given; the rest is whole.

    >>> only_axis(1, ((0, 5), (5, 9)), Extent((0, 0, 0), (4, 9, 7)), ((0, 4),)).shape
    (1, 2, 1)
    """
    found = [planes, ((extent.start[1], extent.stop[1]),), ((extent.start[2], extent.stop[2]),)]
    found[axis] = bins
    return Cells((found[0], found[1], found[2]))
