"""The task of counting: some chunks of one shard, each counted while it is in cache.

What it returns is sparse, since of many regions a shard has few, and a chunk one or two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from thc_dask.store.shards import ArrayReader, OpenShard, shard_key
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
        boxes = _Boxes.of(places, array)
        counts = [_Count(pair, self.within, boxes) for pair in self.pairs]
        if straight:
            at_once = max(1, BATCH_BYTES // max(count.chunk_bytes for count in counts))
        else:
            at_once = max(1, BATCH_VOX // math.prod(array.chunk))
        with _Shards(places) as shards:
            for i in range(0, len(places), at_once):
                pipeline = Decoding() if straight else None
                chunks = _Chunks(boxes.some(slice(i, i + at_once)), pipeline)
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


@dataclass(frozen=True)
class _Boxes:
    """Chunks, and which voxels of them there are."""

    places: NDArray[np.int64]
    """(chunk, 3)."""
    start: NDArray[np.int64]
    """(chunk, 3)."""
    stop: NDArray[np.int64]
    """(chunk, 3)."""

    @classmethod
    def of(cls, places: Sequence[Vox], array: ArrayReader) -> _Boxes:
        """Return chunks of an array."""
        numbers = np.array(places, np.int64).reshape(-1, 3)
        start = numbers * array.chunk
        return cls(numbers, start, np.minimum(start + array.chunk, array.shape))

    def some(self, which: slice) -> _Boxes:
        """Return some of them."""
        return _Boxes(self.places[which], self.start[which], self.stop[which])

    @property
    def around(self) -> Extent:
        """The box around them."""
        start, stop = self.start.min(axis=0).tolist(), self.stop.max(axis=0).tolist()
        return Extent(tuple(start), tuple(stop))


@dataclass(frozen=True)
class _Parts:
    """Parts of chunks, those of a chunk one after the other."""

    number: NDArray[np.int64]
    """Of the chunk."""
    start: NDArray[np.int64]
    """(part, 3)."""
    stop: NDArray[np.int64]
    """(part, 3)."""


class _Shards(ExitStack):
    """One shard of each array, opened when it is first needed."""

    def __init__(self, places: Sequence[Vox]) -> None:
        super().__init__()
        self._places = places
        self._open: dict[str, OpenShard] = {}
        self._seen: dict[str, dict[bytes, Chunk]] = {}

    def get(
        self, axis: Axis, places: NDArray[np.int64], numbers: NDArray[np.int64],
        pipeline: Decoding | None,
    ) -> list[Chunk]:  # fmt: skip
        """Return chunks of the array of an axis as rows; a pipeline may decode them later."""
        if axis.name not in self._open:
            opened = axis.array.open_shard(self._places[0], self._places)
            self._open[axis.name] = self.enter_context(opened)
        shard, seen = self._open[axis.name], self._seen.setdefault(axis.name, {})
        if pipeline is None:
            return [axis.rows(c) for c in get_all(shard, places, seen)]

        def later(some: NDArray[np.int64], entries: NDArray[np.uint64]) -> NDArray[Any]:
            return pipeline.decode(numbers[some], shard, entries, axis.name)

        return get_all(shard, places, seen, later)


class _Chunks:
    """Some chunks of several arrays: those that are asked for, decoded once."""

    def __init__(self, boxes: _Boxes, pipeline: Decoding | None) -> None:
        self.boxes, self.pipeline = boxes, pipeline
        self._axes: dict[str, Axis] = {}
        self._wanted: dict[str, list[NDArray[np.int64]]] = {}
        self._decoded: dict[str, dict[int, Chunk]] = {}

    def ask(self, axis: Axis, which: NDArray[np.int64]) -> None:
        """Ask for chunks by their numbers."""
        if not axis.single:
            self._axes[axis.name] = axis
            self._wanted.setdefault(axis.name, []).append(which)

    def decode(self, shards: _Shards) -> None:
        """Read what was asked for, or have the pipeline read it."""
        for name, which in self._wanted.items():
            numbers = _occurring(np.concatenate(which))
            if len(numbers):
                some = self.boxes.places[numbers]
                found = shards.get(self._axes[name], some, numbers, self.pipeline)
                self._decoded[name] = dict(zip(numbers.tolist(), found, strict=True))

    def get(self, axis: Axis, which: NDArray[np.int64]) -> list[Chunk]:
        """Return chunks as rows, one number where all voxels of a chunk have that row."""
        if axis.single:
            return [0] * len(which)
        decoded = self._decoded.get(axis.name, {})
        return [decoded[i] for i in which.tolist()]


@dataclass(frozen=True)
class _Batch:
    """Chunks that are being counted for a pair."""

    numbers: NDArray[np.int64]
    """Which of the batch hold known voxels, rising."""
    places: NDArray[np.int64]
    """(chunk, 3): where these are."""
    total: NDArray[np.uint32]
    """(chunk, row, column)."""
    met: NDArray[np.bool_]
    """(chunk, row): which were counted already."""
    jobs: Jobs


class _Count:
    """The tables of one pair over the chunks of one task, while they are counted."""

    def __init__(self, pair: Pair, within: Extent, boxes: _Boxes) -> None:
        self._pair = pair
        here = boxes.around
        self._first = here.start[0]
        # Of many annotated planes a shard has few: look through these for each chunk.
        self._known = [b for e in pair.known if (b := e.intersect(within).intersect(here)).n_vox]
        self._shape = (pair.rows.n_counted, pair.columns.n_counted)
        # What is never touched costs nothing: the system gives pages of zeros as they are used.
        self._planes = np.zeros((here.shape[0], *self._shape), np.uint32)
        self._n = 0
        self._places: list[NDArray[np.int64]] = []
        self._chunks: list[NDArray[np.int64]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.uint32]] = []

    def ask(self, chunks: _Chunks) -> _Parts:
        """Ask for the chunks that hold known voxels; return the known parts of each."""
        none = np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.int64)
        found = [none]
        for known in self._known:
            start = np.maximum(chunks.boxes.start, known.start)
            stop = np.minimum(chunks.boxes.stop, known.stop)
            number = np.flatnonzero((start < stop).all(axis=1))
            found.append((number, start[number], stop[number]))
        number, start, stop = (np.concatenate(several) for several in zip(*found, strict=True))
        order = np.argsort(number, kind="stable")
        for axis in (self._pair.rows, self._pair.columns):
            chunks.ask(axis, number)
        return _Parts(number[order], start[order], stop[order])

    @property
    def chunk_bytes(self) -> int:
        """Size of the table of a chunk."""
        return 4 * math.prod(self._shape)

    def begin(self, chunks: _Chunks, parts: _Parts) -> _Batch:
        """Count the known voxels of some chunks, or have the pipeline count them."""
        total = np.zeros((len(chunks.boxes.places), *self._shape), np.uint32)
        met = np.zeros(total.shape[:2], bool)
        jobs = Jobs(self._planes, total)
        rows, values = (
            chunks.get(axis, parts.number) for axis in (self._pair.rows, self._pair.columns)
        )
        whole = self._pair.columns.array.chunk
        ones = {v: np.full(whole, v, np.uint8) for v in values if isinstance(v, int)}
        columns = [ones[v] if isinstance(v, int) else v for v in values]
        inside, shape = parts.start - chunks.boxes.start[parts.number], parts.stop - parts.start
        plane = parts.start[:, 0] - self._first
        if self._pair.are_bytes:
            jobs.add_parts(rows, columns, inside, shape, plane, parts.number)
        else:
            for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
                ranges = zip(inside[i].tolist(), shape[i].tolist(), strict=True)
                z, y, x = (slice(a, a + n) for a, n in ranges)
                number, first = int(parts.number[i]), int(plane[i])
                planes, part = self._planes[first : first + shape[i, 0]], column[z, y, x]
                block = row if isinstance(row, int) else row[z, y, x]
                if are_bytes(block, part, planes.shape):
                    jobs.add(block, part, first, number)
                else:
                    met[number, joint_counts(block, part, planes, total[number])] = True
        if len(jobs):
            if chunks.pipeline is None:
                jobs.run()
            else:
                chunks.pipeline.count(jobs)
        numbers = _occurring(parts.number)
        return _Batch(numbers, chunks.boxes.places[numbers], total, met, jobs)

    def end(self, batch: _Batch) -> None:
        """Keep what was counted."""
        met = batch.met
        if len(batch.jobs):
            met |= batch.jobs.met() != 0
        chunk, row = np.nonzero(met[batch.numbers])
        self._places.append(batch.places)
        self._chunks.append(chunk + self._n)
        self._rows.append(row)
        self._counts.append(batch.total[batch.numbers[chunk], row])
        self._n += len(batch.places)

    def result(self) -> Counted:
        """Return the tables with a row for each code that occurs."""
        rows, columns = self._pair.rows, self._pair.columns
        held, chunk = np.concatenate(self._rows), np.concatenate(self._chunks)
        counts = self._counts[0] if len(self._counts) == 1 else np.concatenate(self._counts)
        met = _occurring(held)
        planes = self._planes[:, without_copy(met)]
        if columns.n_counted != columns.n:
            planes, counts = planes.take(columns.codes, 2), counts.take(columns.codes, 1)
        if rows.n_counted != rows.n:
            codes = np.array(rows.codes)
            ours, keep = np.isin(met, codes), np.isin(held, codes)
            met, planes = np.searchsorted(codes, met[ours]), planes[:, ours]
            chunk, counts = chunk[keep], counts[keep]
            held = np.searchsorted(codes, held[keep])
        sparse = Sparse(chunk, held, counts)
        return Counted(
            self._pair.shape, self._first, met, planes, np.concatenate(self._places), sparse
        )


def without_copy(rows: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Return rising rows as a slice if they lie side by side: those numpy need not copy.

    >>> without_copy(np.array([3, 4, 5]))
    slice(3, 6, None)
    """
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _occurring(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which small numbers occur, rising."""
    return np.flatnonzero(np.bincount(numbers))  # numpy.unique would import numpy.ma
