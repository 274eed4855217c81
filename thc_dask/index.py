"""The tables of a store in memory, made so that a box of any size costs a few look-ups.

Of each row the chunks that hold any of it are kept, summed up one after the other along x:
what lies between two chunks of a line is one difference.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.store.read import Store
from thc_dask.store.tableread import read_array, read_sparse
from thc_dask.store.tables import Table

KEPT = 4  # indexes that stay in memory


class Index:
    """A pair of tables, ready for boxes.

    Parameters
    ----------
    store
        An opened store.
    table
        One of its tables; its plane and chunk groups are read once.
    """

    def __init__(self, store: Store, table: Table) -> None:
        plane, chunk = f"{table.path}/plane", f"{table.path}/chunk"
        self.planes: NDArray[np.int64] = read_array(store, f"{plane}/plane")
        self._by_plane: NDArray[np.int64] = read_array(store, f"{plane}/counts")
        self.places: NDArray[np.int64] = np.stack(
            [read_array(store, f"{chunk}/chunk_{axis}") for axis in "zyx"], axis=1
        )
        self._n = table.rows.n, table.columns.n
        self._shape = store.levels[0].grid.shape
        self._chunk = store.levels[0].chunk
        z, y, x = (-(-n // c) for n, c in zip(self._shape, self._chunk, strict=True))
        self._grid: Vox = (z, y, x)
        held = read_sparse(store, f"{chunk}/counts")
        flat = np.ravel_multi_index(tuple(self.places[held.chunk].T), self._grid)
        key = held.row * (z * y * x) + flat
        order = np.argsort(key)
        self._keys = key[order]
        self._sums = np.zeros((len(key) + 1, self._n[1]), np.int64)
        np.cumsum(held.counts[order], axis=0, out=self._sums[1:])

    def of_planes(self, planes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of whole planes, (plane, row, column); all of them are known ones."""
        return self._by_plane[np.searchsorted(self.planes, planes)]

    def whole(self, extent: Extent) -> NDArray[np.int64]:
        """Return the counts (row, column) of the chunks that lie inside ``extent`` whole."""
        (z0, y0, x0), (z1, y1, x1) = self._inside(extent)
        _, n_y, n_x = self._grid
        total = np.zeros(self._n, np.int64)
        if z0 >= z1 or y0 >= y1 or x0 >= x1:
            return total
        lines = (np.arange(z0, z1)[:, None] * n_y + np.arange(y0, y1)).ravel() * n_x
        if x1 - x0 == n_x:  # whole lines follow on one another
            lines = np.arange(z0, z1) * n_y * n_x + y0 * n_x
            x0, x1 = 0, (y1 - y0) * n_x
        n = self._grid[0] * n_y * n_x
        for row in range(self._n[0]):
            a = np.searchsorted(self._keys, row * n + lines + x0)
            b = np.searchsorted(self._keys, row * n + lines + x1)
            some = b > a
            if some.any():
                total[row] = (self._sums[b[some]] - self._sums[a[some]]).sum(axis=0)
        return total

    def cut(self, extent: Extent) -> list[Vox]:
        """Return the places of the chunks that ``extent`` cuts and that hold known voxels."""
        low, high = self._inside(extent)
        size = np.array(self._chunk)
        first, last = np.array(extent.start) // size, -(-np.array(extent.stop) // size)
        touched = ((self.places >= first) & (self.places < last)).all(axis=1)
        whole = ((self.places >= low) & (self.places < high)).all(axis=1)
        return [(int(z), int(y), int(x)) for z, y, x in self.places[touched & ~whole]]

    def chunks(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return row, place (z, y, x) and counts of every chunk that holds any of that row."""
        row, flat = np.divmod(self._keys, int(np.prod(self._grid)))
        places = np.stack(np.unravel_index(flat, self._grid), axis=1)
        return row, places, np.diff(self._sums, axis=0)

    def _inside(self, extent: Extent) -> tuple[Vox, Vox]:
        """Return the first and one past the last chunk that lie inside whole."""
        low, high = [], []
        for a, b, n, c in zip(extent.start, extent.stop, self._shape, self._chunk, strict=True):
            low.append(-(-a // c))
            high.append(-(-b // c) if b == n else b // c)
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])


class _Key:
    """A table by its content: equal keys, equal counts."""

    def __init__(self, store: Store, table: Table) -> None:
        self.store, self.table = store, table
        self._content = (
            store.url,
            table.path,
            store.nodes[f"{table.path}/plane"]["attributes"]["files"],
        )

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._content == other._content


@lru_cache(KEPT)
def _index(key: _Key) -> Index:
    return Index(key.store, key.table)


def index_of(store: Store, table: Table) -> Index:
    """Return the index of a table; the last few stay in memory."""
    return _index(_Key(store, table))


def snap(extent: Extent, shape: Vox, chunk: Vox) -> Extent:
    """Return the box with its faces on the nearest faces of chunks; at least one chunk.

    >>> str(snap(Extent((0, 10, 40), (30, 50, 60)), (64, 64, 60), (32, 32, 32)))
    '0:32,0:64,32:60'
    """
    start, stop = [], []
    for a, b, n, c in zip(extent.start, extent.stop, shape, chunk, strict=True):
        low = min((a + c // 2) // c * c, (n - 1) // c * c)
        high = n if b == n else min(max(low + c, (b + c // 2) // c * c), n)
        start.append(low)
        stop.append(high)
    return Extent((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
