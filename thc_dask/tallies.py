"""The task of counting: some chunks of one shard, each counted while it is in cache.

What it returns is sparse, since of many regions a shard has few, and a chunk one or two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.kernels.histogram import Jobs, are_bytes, joint_counts
from thc_dask.pairs import Axis, Pair
from thc_dask.store.batches import Chunk, get_all, keep_memory
from thc_dask.store.pipeline import BrokenError, Decoding, can
from thc_dask.store.shards import OpenShard, shard_key
from thc_dask.store.tableparts import Sparse

BATCH_VOX = 2**20  # decoded at a time where that is done before counting
BATCH_BYTES = 2**22  # of tables, where chunks follow one another through a pipeline


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
        keep_memory()
        if can() and all(pair.are_bytes for pair in self.pairs):
            with suppress(BrokenError):  # chunk by chunk it is tried again, and told apart
                return self._count(places, straight=True)
        return self._count(places, straight=False)

    def _count(self, places: Sequence[Vox], straight: bool) -> list[Counted]:
        array = self.pairs[0].rows.array
        boxes = [array.chunk_extent(p) for p in places]
        counts = [_Count(pair, self.within, boxes) for pair in self.pairs]
        if straight:
            at_once = max(1, BATCH_BYTES // max(count.chunk_bytes for count in counts))
        else:
            at_once = max(1, BATCH_VOX // math.prod(array.chunk))
        with _Shards(places) as shards:
            for i in range(0, len(places), at_once):
                pipeline = Decoding() if straight else None
                chunks = _Chunks(places[i : i + at_once], boxes[i : i + at_once], pipeline)
                parts = [count.ask(chunks) for count in counts]
                chunks.decode(shards)
                batches = [c.begin(chunks, some) for c, some in zip(counts, parts, strict=True)]
                if pipeline is not None:
                    pipeline.run()
                for count, batch in zip(counts, batches, strict=True):
                    count.end(batch)
        return [count.result() for count in counts]

    def named(self, places: Sequence[Vox]) -> str:
        """Return the store and the shard that hold these chunks."""
        array = self.pairs[0].rows.array
        shard = [a // n for a, n in zip(places[0], array.chunks_per_shard, strict=True)]
        return f"{array.location.url}: {shard_key(array.path, shard)}"


class _Shards(ExitStack):
    """One shard of each array, opened when it is first needed."""

    def __init__(self, places: Sequence[Vox]) -> None:
        super().__init__()
        self._places = places
        self._open: dict[str, OpenShard] = {}
        self._seen: dict[str, dict[bytes, Chunk]] = {}

    def get(
        self, axis: Axis, places: Sequence[Vox], numbers: Sequence[int], pipeline: Decoding | None
    ) -> list[Chunk]:
        """Return chunks of the array of an axis as rows; a pipeline may decode them later."""
        if axis.name not in self._open:
            opened = axis.array.open_shard(places[0], self._places)
            self._open[axis.name] = self.enter_context(opened)
        shard, seen = self._open[axis.name], self._seen.setdefault(axis.name, {})
        if pipeline is None:
            return [axis.rows(c) for c in get_all(shard, places, seen)]

        def later(i: int) -> NDArray[Any]:
            return pipeline.decode(numbers[i], shard, places[i], axis.name)

        return get_all(shard, places, seen, later)


class _Chunks:
    """Some chunks of several arrays: those that are asked for, decoded once."""

    def __init__(
        self, places: Sequence[Vox], boxes: Sequence[Extent], pipeline: Decoding | None
    ) -> None:
        self.places, self.boxes, self.pipeline = places, boxes, pipeline
        self._axes: dict[str, Axis] = {}
        self._wanted: dict[str, set[int]] = {}
        self._decoded: dict[str, dict[int, Chunk]] = {}

    def ask(self, axis: Axis, which: Iterable[int]) -> None:
        """Ask for chunks by their numbers."""
        if not axis.single:
            self._axes[axis.name] = axis
            self._wanted.setdefault(axis.name, set()).update(which)

    def decode(self, shards: _Shards) -> None:
        """Read what was asked for, or have the pipeline read it."""
        for name, which in self._wanted.items():
            numbers = sorted(which)
            if numbers:
                some = [self.places[i] for i in numbers]
                found = shards.get(self._axes[name], some, numbers, self.pipeline)
                self._decoded[name] = dict(zip(numbers, found, strict=True))

    def get(self, axis: Axis, i: int) -> Chunk:
        """Return a chunk as rows, one number where all its voxels have that row."""
        return 0 if axis.single else self._decoded[axis.name][i]


@dataclass(frozen=True)
class _Batch:
    """Chunks that are being counted for a pair."""

    places: list[tuple[int, Vox]]
    total: NDArray[np.uint32]
    """(chunk, row, column)."""
    met: NDArray[np.bool_]
    """(chunk, row): which were counted already."""
    jobs: Jobs | None


class _Count:
    """The tables of one pair over the chunks of one task, while they are counted."""

    def __init__(self, pair: Pair, within: Extent, boxes: Sequence[Extent]) -> None:
        self._pair = pair
        here = _around(boxes)
        self._first = here.start[0]
        # Of many annotated planes a shard has few: look through these for each chunk.
        self._known = [b for e in pair.known if (b := e.intersect(within).intersect(here)).n_vox]
        self._is_all_known = self._known == [here]
        self._shape = (pair.rows.n_counted, pair.columns.n_counted)
        # What is never touched costs nothing: the system gives pages of zeros as they are used.
        self._planes = np.zeros((here.shape[0], *self._shape), np.uint32)
        self._places: list[Vox] = []
        self._rows: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.uint32]] = []

    def ask(self, chunks: _Chunks) -> dict[int, list[Extent]]:
        """Ask for the chunks that hold known voxels; return the known boxes of each."""
        if self._is_all_known:
            parts = {i: [box] for i, box in enumerate(chunks.boxes)}
        else:
            found = [
                [b for e in self._known if (b := e.intersect(box)).n_vox] for box in chunks.boxes
            ]
            parts = {i: some for i, some in enumerate(found) if some}
        for axis in (self._pair.rows, self._pair.columns):
            chunks.ask(axis, parts)
        return parts

    @property
    def chunk_bytes(self) -> int:
        """Size of the table of a chunk."""
        return 4 * math.prod(self._shape)

    def begin(self, chunks: _Chunks, parts: dict[int, list[Extent]]) -> _Batch:
        """Count the known voxels of some chunks, or have the pipeline count them."""
        total = np.zeros((len(chunks.places), *self._shape), np.uint32)
        met = np.zeros(total.shape[:2], bool)
        jobs = Jobs(self._planes, total)
        for i, some in parts.items():
            rows, columns = (chunks.get(a, i) for a in (self._pair.rows, self._pair.columns))
            if isinstance(columns, int):
                columns = np.full(self._pair.columns.array.chunk, columns, np.uint8)
            for part in some:
                where = _inside(part, chunks.boxes[i])
                block = rows if isinstance(rows, int) else rows[where]
                plane = part.start[0] - self._first
                if are_bytes(block, columns, self._planes.shape):
                    jobs.add(block, columns[where], plane, i)
                else:
                    planes = self._planes[plane : plane + part.shape[0]]
                    met[i, joint_counts(block, columns[where], planes, total[i])] = True
        places = [(i, chunks.places[i]) for i in parts]
        if not len(jobs):
            return _Batch(places, total, met, None)
        if chunks.pipeline is None:
            jobs.run()
        else:
            chunks.pipeline.count(jobs)
        return _Batch(places, total, met, jobs)

    def end(self, batch: _Batch) -> None:
        """Keep what was counted."""
        met = batch.met
        if batch.jobs is not None:
            met |= batch.jobs.met() != 0
        for i, place in batch.places:
            self._places.append(place)
            rows_met = np.flatnonzero(met[i])
            self._rows.append(rows_met)
            self._counts.append(batch.total[i, rows_met])

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


def _around(boxes: Sequence[Extent]) -> Extent:
    """Return the box around boxes."""
    start = tuple(min(b.start[axis] for b in boxes) for axis in range(3))
    stop = tuple(max(b.stop[axis] for b in boxes) for axis in range(3))
    return Extent(start, stop)  # type: ignore[arg-type]


def _inside(part: Extent, box: Extent) -> tuple[slice, slice, slice]:
    """Return where a part is among the voxels of a box."""
    z, y, x = (
        slice(a - o, b - o) for a, b, o in zip(part.start, part.stop, box.start, strict=True)
    )
    return z, y, x
