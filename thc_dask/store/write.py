"""The only code that writes voxels: whole shards, each by one task, metadata last.

A block of whole shards is read slab by slab (some rows of a layer of chunks) into buffers that are
used again. While one slab is compressed the next ones are read. From each row of chunks, while it
is in cache, come the voxels of the next level and the compressed bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox, blocks
from thc_dask.reader import Reader, fill, stored_dtype, unit_bytes
from thc_dask.retry import FILES, Attempts
from thc_dask.store.column import Column, Counted, Spare, Tally
from thc_dask.store.filesink import most_open
from thc_dask.store.imagecounts import held_bytes
from thc_dask.store.layout import SLABS, Level, plan_blocks, waves
from thc_dask.store.target import Receipt, Target, halved_reader, place_of

MOST_COMMITS = 24  # finished columns that may wait for the disk
WAITING_BYTES = 2**27  # what these may hold, where a store takes its shards in one piece
UNITS_PER_THREAD = 2  # tasks that a slab is compressed by
# What a voxel becomes on its way to 8 bit, by its type: `views.EightBit`.
CAST_BYTES = {"float32": 0, "float64": 0, "uint16": 0, "float16": 4, "int16": 4, "int8": 4}
# Columns that are made safe at a time: far away most of it is waiting; near, one flush of the disk
# serves several, and more threads wait for one another.
FAR_COMMITS, NEAR_COMMITS = 12, 4


@dataclass(frozen=True)
class Wave:
    """What one task needs to write blocks of a wave, wherever it runs."""

    target: Target
    levels: tuple[Level, ...]
    reader: Reader
    depth: int
    """Planes that are read at a time."""
    rows: int
    """Rows of these that are read at a time."""
    threads: int
    memory_bytes: int
    """What the buffers of one block hold."""
    waste: float = 1.0
    """How often each voxel of the source is decoded."""
    decoding_bytes: int = 0
    """What threads hold besides that decode large units of the source."""
    done: frozenset[Vox] = frozenset()
    """Columns that an earlier run has finished."""
    kept: tuple[Receipt, ...] = ()
    """Their receipts."""

    def missing(self, boxes: Sequence[Extent]) -> list[Extent]:
        """Return the blocks that hold a column still to be made."""
        first = self.levels[0]
        return [
            box
            for box in boxes
            if any(
                first.shard_place(e.shift(box.start)) not in self.done
                for e in blocks(box.shape, first.shard)
            )
        ]

    def write(self, boxes: Sequence[Extent]) -> list[Receipt]:
        """Write blocks of whole shards and return their receipts."""
        return list(self.stream(boxes))

    def stream(self, boxes: Sequence[Extent], counted: Counted | None = None) -> Iterator[Receipt]:
        """Write blocks of whole shards; yield the receipt of each column once it is on disk.

        ``counted`` hears of the intensities of each, in one thread or another.

        What fails for a moment only is made again: what a write loses is not known, so all columns
        that have no receipt yet.
        """
        attempts = Attempts(self.target.location.url, FILES)
        wave, left, seen = self, list(boxes), set(self.done)
        while True:
            # Waiting for the disk must not keep a core from compressing.
            n = FAR_COMMITS if self.target.location.far else NEAR_COMMITS
            with (
                ThreadPoolExecutor(self.threads) as pool,
                ThreadPoolExecutor(n, "thc-commit") as disk,
            ):
                job = _Job(wave, pool, disk, counted)
                failure: Exception | None = None
                try:
                    for receipt in job.run(left):
                        attempts.succeeded()
                        seen.add(place_of(receipt))
                        yield receipt
                except BaseException as error:
                    job.abort()
                    if not isinstance(error, Exception):
                        raise
                    failure = error
            if failure is None:
                return
            late = [receipt for receipt in job.finished if place_of(receipt) not in seen]
            if late:
                attempts.succeeded()
            attempts.failed(failure)
            seen.update(map(place_of, late))
            yield from late
            wave = replace(wave, done=frozenset(seen))
            left = wave.missing(left)


@dataclass(frozen=True)
class _Slab:
    """What is read at a time: some planes, or some rows of them."""

    box: Extent
    """The block it is part of."""
    extent: Extent
    voxels: NDArray[Any]
    parts: list[Future[NDArray[np.int64] | None]]
    """Who is reading it; they tell what they counted."""


class _Job:
    """A running ``Wave.stream``.

    Three slabs are under way: one is compressed while the next has been read and the one after is
    being read, so no thread waits for another. Threads take work in the order in which it is given.
    """

    def __init__(
        self, wave: Wave, pool: ThreadPoolExecutor, disk: ThreadPoolExecutor,
        counted: Counted | None,
    ) -> None:  # fmt: skip
        self._wave, self._pool, self._disk, self._counted = wave, pool, disk, counted
        self._open: dict[Vox, Column] = {}
        self._spare, self._spare_counts = Spare(), Spare()
        self._reading: deque[_Slab] = deque()
        self._units: deque[list[Future[list[Future[Receipt]]]]] = deque()  # by slab
        self._adding: dict[Vox, Future[Any]] = {}  # who adds to columns what the last slab has
        self._commits: list[Future[Receipt]] = []
        self.finished: list[Receipt] = []
        """Receipts of all columns that are on disk, asked for or not."""
        self._buffers = deque(np.empty(0, wave.reader.dtype) for _ in range(SLABS))
        held = _held_bytes(wave.target, wave.levels)
        self._most_commits = min(MOST_COMMITS, max(1, WAITING_BYTES // held))

    def run(self, boxes: Sequence[Extent]) -> Iterator[Receipt]:
        plan = self._slabs(boxes)
        for box, extent in islice(plan, SLABS - 1):
            self._read(box, extent)
        counts: NDArray[np.int64] | None = None
        box_before: Extent | None = None
        while self._reading:
            slab = self._reading[0]
            counted = [found for part in slab.parts if (found := part.result()) is not None]
            self._reading.popleft()
            if slab.box != box_before:
                box_before, counts = slab.box, None
            if counted:
                counts = np.sum(counted if counts is None else [counts, *counted], axis=0)
            tally = None if counts is None else Tally(slab.box, counts)
            self._compress(slab, tally)
            self._settle(1)  # now the buffer of the slab before is free
            for box, extent in islice(plan, 1):
                self._read(box, extent)
            yield from self._receipts(wait_for_all=False)
            # A slow disk must not collect finished columns in memory without end.
            while len(self._commits) > self._most_commits:
                yield self._next()
        self._settle(0)
        yield from self._receipts(wait_for_all=True)

    def _slabs(self, boxes: Sequence[Extent]) -> Iterator[tuple[Extent, Extent]]:
        """Yield each block with what of it is read at a time."""
        for box in boxes:
            for part in blocks(box.shape, (self._wave.depth, self._wave.rows, box.shape[2])):
                yield box, part.shift(box.start)

    def _compress(self, slab: _Slab, tally: Tally | None) -> None:
        """Have the voxels of a slab added to its columns, a few columns a task."""
        columns = self._columns(slab)
        n = max(1, -(-len(columns) // (UNITS_PER_THREAD * self._wave.threads)))
        before, self._adding = self._adding, {}
        self._units.append([])
        for some in (columns[i : i + n] for i in range(0, len(columns), n)):
            # One at a time adds to a column, in the order of its chunks.
            first = {before[c.place] for c in some if c.place in before}
            unit = self._pool.submit(self._unit, some, slab, tally, first)
            self._adding.update((c.place, unit) for c in some)
            self._units[-1].append(unit)

    def _columns(self, slab: _Slab) -> list[Column]:
        """Return the columns that a slab is part of and that are still to be made."""
        first, found = self._wave.levels[0], []
        for part in blocks(slab.box.shape, first.shard):
            extent = part.shift(slab.box.start)
            place = first.shard_place(extent)
            if place in self._wave.done or not extent.intersect(slab.extent).n_vox:
                continue
            if place not in self._open:
                self._open[place] = Column(
                    self._wave.target, self._wave.levels, extent, self._spare, self._spare_counts
                )
            found.append(self._open[place])
        return found

    def abort(self) -> None:
        """Give up what has not begun, wait for what runs, and throw away what is open."""
        self._pool.shutdown(cancel_futures=True)
        # No column may be taken apart while it is being committed: files would appear hollow.
        self._disk.shutdown(cancel_futures=True)
        for column in self._open.values():
            column.abort()

    def _read(self, box: Extent, extent: Extent) -> None:
        """Have a slab read by all threads, once they have done what they were given before."""
        self._buffers.rotate()
        if len(self._buffers[0]) < extent.n_vox:
            self._buffers[0] = np.empty(extent.n_vox, self._wave.reader.dtype)
        voxels = self._buffers[0][: extent.n_vox].reshape(extent.shape)
        z, y, x = extent.start
        size = _part(extent, self._wave.reader.unit, self._wave.threads)
        parts = [
            self._pool.submit(
                fill,
                self._wave.reader,
                voxels[part.slices],
                (z + part.start[0], y + part.start[1], x),
            )
            for part in blocks(extent.shape, size)
        ]
        self._reading.append(_Slab(box, extent, voxels, parts))

    def _unit(
        self, columns: Sequence[Column], slab: _Slab, tally: Tally | None,
        before: Collection[Future[Any]],
    ) -> list[Future[Receipt]]:  # fmt: skip
        """Add to columns what a slab holds of them; commit those of which it was the last."""
        for future in before:
            future.result()
        (z, y, x), step, commits = slab.extent.start, self._wave.levels[0].chunk[0], []
        for column in columns:
            here, whole = column.extent.intersect(slab.extent), column.extent
            part = slab.voxels[here.shift((-z, -y, -x)).slices]
            top, row = here.start[0] - whole.start[0], here.start[1] - whole.start[1]
            for a in range(0, len(part), step):
                column.add_layer(part[a : a + step], top + a, row)
            if here.stop == whole.stop:
                column.finish()
                commits.append(self._disk.submit(self._commit, column, tally))
        return commits

    def _commit(self, column: Column, tally: Tally | None) -> Receipt:
        receipt = column.commit(tally, self._counted)
        del self._open[column.place]
        self.finished.append(receipt)
        return receipt

    def _settle(self, n: int) -> None:
        """Wait until no more than ``n`` slabs are being compressed, and hear of errors."""
        while len(self._units) > n:
            for future in self._units[0]:
                self._commits += future.result()
            self._units.popleft()

    def _receipts(self, wait_for_all: bool) -> Iterator[Receipt]:
        while self._commits and (wait_for_all or self._commits[0].done()):
            yield self._next()

    def _next(self) -> Receipt:
        return self._commits.pop(0).result()


def _part(slab: Extent, unit: Vox, threads: int) -> Vox:
    """Return the size of boxes of a slab that are read side by side, cutting no unit."""
    wanted = 2 * threads
    size = list(slab.shape)
    for axis in (0, 1):
        n, u = slab.shape[axis], unit[axis]
        # Where a slab does not begin with a unit, a cut would fall into one.
        if u < n and slab.start[axis] % u == 0:
            size[axis] = math.ceil(n / wanted / u) * u
            break
    z, y, x = size
    return z, y, x


@dataclass(frozen=True)
class _Decoding:
    """What threads hold, at most, that decode large units of a source, by what is read at a time.

    Each has a unit as it is stored, which is no more than its voxels, and decoded; where voxels
    become others, also those that it was asked for.
    """

    reader: Reader
    threads: int

    def __call__(self, sizes: Vox) -> int:
        unit, shape = self.reader.unit, self.reader.grid.shape
        z, y, x = (min(s, n) for s, n in zip(sizes, shape, strict=True))
        part = _part(Extent((0, 0, 0), (z, y, x)), unit, self.threads)
        n_parts = -(-z // part[0]) * -(-y // part[1])
        stored, asked = stored_dtype(self.reader), 0
        if stored != self.reader.dtype:
            n_vox = math.prod(min(n, u) for n, u in zip(part, unit, strict=True))
            asked = n_vox * (stored.itemsize + CAST_BYTES.get(stored.name, 8))
        # While a slab is compressed the others are read.
        at_once = min(self.threads, (SLABS - 1) * n_parts)
        return at_once * (2 * unit_bytes(self.reader) + asked)


def _held_bytes(target: Target, levels: Sequence[Level]) -> int:
    """Return what a column that is being made holds: of open shards, and its counts."""
    sizes = (math.prod(level.shard) * target.dtype.itemsize for level in levels)
    counts = held_bytes(levels[0].shard, levels[0].chunk) if target.counts(levels[0].wave) else 0
    return sum(map(target.location.sink_bytes, sizes)) + counts


def plan_waves(
    target: Target, levels: Sequence[Level], reader: Reader, threads: int, memory_bytes: int,
    wanted: Sequence[Extent] | None = None,
) -> list[tuple[Wave, list[Extent]]]:  # fmt: skip
    """Return each wave with the blocks it writes.

    ``wanted`` limits the work to blocks that touch one of the extents (voxels of level 0).
    """
    planned = []
    for run in waves(levels):
        source = reader if run[0].wave == 0 else halved_reader(target, levels, run[0].wave)
        decoding = _Decoding(source, threads) if unit_bytes(source) else None
        plan = plan_blocks(
            run[0], source.unit, target.dtype.itemsize, memory_bytes, _held_bytes(target, run),
            most_open() // len(run), decoding,
        )  # fmt: skip
        boxes = plan.boxes
        if wanted is not None:
            near = [e.level(run[0].index) for e in wanted]
            boxes = [b for b in boxes if any(b.intersect(e).n_vox for e in near)]
        wave = Wave(
            target, tuple(run), source, plan.depth, plan.rows, threads, plan.memory_bytes,
            plan.waste, plan.decoding_bytes,
        )  # fmt: skip
        planned.append((wave, boxes))
    return planned
