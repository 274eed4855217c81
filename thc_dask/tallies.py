"""The task of counting: some chunks of one shard, each counted while it is in cache.

What it returns is sparse, since of many regions a shard has few, and a chunk one or two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.kernels.histogram import Jobs, are_bytes, joint_counts
from thc_dask.pairs import Axis, Pair
from thc_dask.store.batches import get_all
from thc_dask.store.shards import OpenShard
from thc_dask.store.tableparts import Sparse

BATCH_VOX = 2**20  # decoded and counted together: what a core's cache holds


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
        at_once = max(1, BATCH_VOX // math.prod(array.chunk))
        with ExitStack() as stack:
            shards: dict[str, OpenShard] = {}
            for i in range(0, len(places), at_once):
                some = places[i : i + at_once]
                parts = [c.parts(boxes[i : i + at_once]) for c in counts]
                chunks = _Chunks(some)
                for count, part in zip(counts, parts, strict=True):
                    count.need(chunks, part)
                chunks.decode(shards, places, stack)
                for count, part in zip(counts, parts, strict=True):
                    count.add(chunks, boxes[i : i + at_once], part)
        return [count.result() for count in counts]


class _Chunks:
    """Some chunks of several arrays: those that are needed, decoded together, once."""

    def __init__(self, places: Sequence[Vox]) -> None:
        self.places = places
        self._axes: dict[str, Axis] = {}
        self._needed: dict[str, set[int]] = {}
        self._decoded: dict[tuple[str, int], NDArray[Any] | None] = {}

    def need(self, axis: Axis, i: int) -> None:
        """Ask for a chunk by its number."""
        if not axis.single:
            self._axes[axis.name] = axis
            self._needed.setdefault(axis.name, set()).add(i)

    def decode(
        self, shards: dict[str, OpenShard], all_places: Sequence[Vox], stack: ExitStack
    ) -> None:
        """Read what was asked for; shards stay open in ``shards``, until ``stack`` ends."""
        for name, axis in self._axes.items():
            which = sorted(self._needed[name])
            if name not in shards:
                opened = axis.array.open_shard(self.places[which[0]], all_places)
                shards[name] = stack.enter_context(opened)
            chunks = get_all(shards[name], [self.places[i] for i in which])
            for i, chunk in zip(which, chunks, strict=True):
                self._decoded[name, i] = None if chunk is None else axis.rows(chunk)

    def get(self, axis: Axis, i: int) -> NDArray[Any] | None:
        """Return the rows of a chunk, None where all its voxels have the first."""
        return None if axis.single else self._decoded[axis.name, i]


class _Count:
    """The tables of one pair over the chunks of one task, while they are counted."""

    def __init__(self, pair: Pair, within: Extent, planes: range) -> None:
        self._pair, self._first = pair, planes.start
        known = (e.intersect(within) for e in pair.known)
        # Of many annotated planes a shard has few: look through these for each chunk.
        self._known = [
            e for e in known if e.n_vox and e.start[0] < planes.stop and e.stop[0] > planes.start
        ]
        self._shape = (pair.rows.n_counted, pair.columns.n_counted)
        # What is never touched costs nothing: the system gives pages of zeros as they are used.
        self._planes = np.zeros((len(planes), *self._shape), np.uint32)
        self._places: list[Vox] = []
        self._rows: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.uint32]] = []

    def parts(self, boxes: Sequence[Extent]) -> list[list[Extent]]:
        """Return the known boxes of each chunk."""
        return [[b for e in self._known if (b := e.intersect(box)).n_vox] for box in boxes]

    def need(self, chunks: _Chunks, parts: Sequence[Sequence[Extent]]) -> None:
        """Ask for the chunks that hold known voxels."""
        for i, part in enumerate(parts):
            if part:
                chunks.need(self._pair.rows, i)
                chunks.need(self._pair.columns, i)

    def add(
        self, chunks: _Chunks, boxes: Sequence[Extent], parts: Sequence[Sequence[Extent]]
    ) -> None:
        """Count the known voxels of some chunks, whose voxels are ``boxes``."""
        total = np.zeros((len(parts), *self._shape), np.uint32)
        met = np.zeros((len(parts), self._shape[0]), bool)
        jobs = Jobs(self._planes, total)
        asked = False
        for i, (box, some) in enumerate(zip(boxes, parts, strict=True)):
            if not some:
                continue
            self._places.append(chunks.places[i])
            rows, columns = (chunks.get(a, i) for a in (self._pair.rows, self._pair.columns))
            if columns is None:
                columns = np.zeros(self._pair.columns.array.chunk, np.uint8)
            for part in some:
                where = _inside(part, box)
                here = 0 if rows is None else rows[where]
                plane = part.start[0] - self._first
                if are_bytes(here, columns, self._planes.shape):
                    jobs.add(here, columns[where], plane, i)
                    asked = True
                else:
                    planes = self._planes[plane : plane + part.shape[0]]
                    met[i, joint_counts(here, columns[where], planes, total[i])] = True
        if asked:
            met |= jobs.run() != 0
        for i, some in enumerate(parts):
            if some:
                self._rows.append(np.flatnonzero(met[i]))
                self._counts.append(total[i, met[i]])

    def result(self) -> Counted:
        """Return the tables with a row for each code that occurs."""
        rows, columns = self._pair.rows, self._pair.columns
        held = np.concatenate([np.zeros(0, np.int64), *self._rows])
        counts = np.concatenate([np.zeros((0, self._shape[1]), np.uint32), *self._counts])
        chunk = np.repeat(np.arange(len(self._rows)), [len(r) for r in self._rows])
        met = np.unique(held)
        planes = self._planes[:, met]
        if columns.n_counted != columns.n:
            planes, counts = planes.take(columns.codes, 2), counts.take(columns.codes, 1)
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


def _inside(part: Extent, box: Extent) -> tuple[slice, slice, slice]:
    """Return where a part is among the voxels of a box."""
    z, y, x = (
        slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, box.start, strict=True)
    )
    return z, y, x
