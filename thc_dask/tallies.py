"""The task of counting: some chunks of one shard, each counted while it is in cache.

What it returns is sparse, since of many regions a shard has few, and a chunk one or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.kernels.histogram import joint_counts
from thc_dask.pairs import Axis, Pair
from thc_dask.store.shards import OpenShard
from thc_dask.store.tableparts import Sparse


@dataclass(frozen=True)
class Counted:
    """What one task found for one pair."""

    shape: tuple[int, int]
    """Rows and columns of the table."""
    first_plane: int
    rows: NDArray[np.int64]
    """Rows that occur, rising."""
    planes: NDArray[np.uint32]
    """(plane, row that occurs, column)."""
    places: NDArray[np.int64]
    """(chunk, 3): which chunks hold known voxels (z, y, x)."""
    chunks: Sparse
    """Counts of these chunks."""

    def total(self) -> NDArray[np.int64]:
        """Return the counts of all planes together, (row, column)."""
        found = np.zeros(self.shape, np.int64)
        found[self.rows] = self.planes.sum(axis=0, dtype=np.int64)
        return found

    def of_planes(self, planes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts of some planes by their numbers, (plane, row, column)."""
        found = np.zeros((len(planes), *self.shape), np.int64)
        inside = planes - self.first_plane
        here = np.flatnonzero((inside >= 0) & (inside < len(self.planes)))
        found[np.ix_(here, self.rows)] = self.planes[inside[here]]
        return found


@dataclass(frozen=True)
class Task:
    """Count the known voxels of some chunks inside ``within``, wherever it runs."""

    pairs: tuple[Pair, ...]
    within: Extent

    def __call__(self, places: Sequence[Vox]) -> list[Counted]:
        """Return what each pair counts in these chunks of one shard."""
        array = self.pairs[0].rows.array
        boxes = [array.chunk_extent(p) for p in places]
        planes = range(min(b.start[0] for b in boxes), max(b.stop[0] for b in boxes))
        counts = [_Count(pair, self.within, planes) for pair in self.pairs]
        with _Chunks(places) as chunks:
            for place, box in zip(places, boxes, strict=True):
                for count in counts:
                    count.add(place, box, chunks)
        return [count.result() for count in counts]


class _Chunks:
    """The chunks of some arrays, each decoded once, and only if it is needed."""

    def __init__(self, places: Sequence[Vox]) -> None:
        self._places = places
        self._shards: dict[str, OpenShard] = {}
        self._stack = ExitStack()
        self._here: Vox | None = None
        self._decoded: dict[str, NDArray[Any] | None] = {}

    def __enter__(self) -> _Chunks:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, axis: Axis, place: Vox) -> NDArray[Any] | None:
        """Return the rows of a chunk, None where all its voxels have the first."""
        if axis.single:
            return None
        if place != self._here:
            self._here, self._decoded = place, {}
        if axis.name not in self._decoded:
            if axis.name not in self._shards:
                opened = axis.array.open_shard(place, self._places)
                self._shards[axis.name] = self._stack.enter_context(opened)
            chunk = self._shards[axis.name].get(place)
            self._decoded[axis.name] = None if chunk is None else axis.rows(chunk)
        return self._decoded[axis.name]


class _Count:
    """The tables of one pair over the chunks of one task, while they are counted."""

    def __init__(self, pair: Pair, within: Extent, planes: range) -> None:
        self._pair, self._first = pair, planes.start
        known = (e.intersect(within) for e in pair.known)
        # Of many annotated planes a shard has few: look through these for each chunk.
        self._known = [
            e for e in known if e.n_vox and e.start[0] < planes.stop and e.stop[0] > planes.start
        ]
        shape = (pair.rows.n_counted, pair.columns.n_counted)
        # What is never touched costs nothing: the system gives pages of zeros as they are used.
        self._planes = np.zeros((len(planes), *shape), np.uint32)
        self._total = np.zeros(shape, np.uint32)
        self._places: list[Vox] = []
        self._rows: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.uint32]] = []

    def add(self, place: Vox, box: Extent, chunks: _Chunks) -> None:
        """Count the known voxels of a chunk, whose voxels are ``box``."""
        parts = [b for e in self._known if (b := e.intersect(box)).n_vox]
        if not parts:
            return
        rows = chunks.get(self._pair.rows, place)
        columns = chunks.get(self._pair.columns, place)
        if columns is None:
            columns = np.zeros(self._pair.columns.array.chunk, np.uint8)
        met = []
        for part in parts:
            where = tuple(
                slice(a - o, b - o)
                for a, b, o in zip(part.start, part.stop, box.start, strict=True)
            )
            planes = self._planes[part.start[0] - self._first : part.stop[0] - self._first]
            here = 0 if rows is None else rows[where]
            met.append(joint_counts(here, columns[where], planes, self._total))
        held = met[0] if len(met) == 1 else np.unique(np.concatenate(met))
        self._places.append(place)
        self._rows.append(held)
        self._counts.append(self._total[held])
        self._total[held] = 0

    def result(self) -> Counted:
        """Return the tables with a row for each code that occurs."""
        rows, columns = self._pair.rows, self._pair.columns
        none = np.zeros(0, np.int64)
        held = np.concatenate([none, *self._rows])
        met = np.unique(held)
        planes, counts = self._planes[:, met], np.zeros((0, columns.n), np.uint32)
        if self._counts:
            counts = np.concatenate(self._counts)
        if columns.n_counted != columns.n:
            planes, counts = planes.take(columns.codes, 2), counts.take(columns.codes, 1)
        chunk = np.repeat(np.arange(len(self._rows)), [len(r) for r in self._rows])
        if rows.n_counted != rows.n:
            codes = np.array(rows.codes)
            ours, keep = np.isin(met, codes), np.isin(held, codes)
            met, planes = np.searchsorted(codes, met[ours]), planes[:, ours]
            chunk, counts = chunk[keep], counts[keep]
            held = np.searchsorted(codes, held[keep])
        places = np.array(self._places, np.int64).reshape(-1, 3)
        return Counted(
            self._pair.shape, self._first, met, planes, places, Sparse(chunk, held, counts)
        )
