"""The only code that writes voxels: whole shards, each by one task, metadata last.

A block of whole shards is read layer by layer (a layer is one chunk deep) into a buffer that
is used again. While one layer is compressed the next is read. From each chunk, while it is in
cache, come the voxels of the next level and the compressed bytes.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Grid, Vox, blocks
from thc_dask.kernels.mean import mean
from thc_dask.progress import Progress as Progress
from thc_dask.reader import Reader, fill
from thc_dask.retry import FILES, Attempts
from thc_dask.store.filesink import most_open
from thc_dask.store.imagecounts import ImageCounts, counts_key
from thc_dask.store.layout import SLABS, Level, plan_blocks, waves
from thc_dask.store.location import Location
from thc_dask.store.shards import ArrayReader, Codec, ShardWriter, encode_chunk, scratch, shard_key

RECEIPTS = "thc/receipts"

Receipt = dict[str, Any]

ROW_BYTES = 2**20  # chunks side by side that are made at a time: what a core's cache holds
MOST_COMMITS = 24  # finished columns that may wait for the disk
WAITING_BYTES = 2**27  # what these may hold, where a store takes its shards in one piece
UNITS_PER_THREAD = 2  # tasks that a slab is compressed by
LOOKS = 64  # receipts of an interrupted run that are looked at side by side: most of it is waiting
COMMITTERS = 12  # files that are made safe at a time: one flush of the disk serves them all


class Halving(Protocol):
    """How the next level is made."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        """Fill ``dst`` from ``src``, the voxels of ``level`` that begin at ``start``."""

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        """Fill ``dst`` from (chunk, z, y, x): chunks side by side along x, of even sizes."""


@dataclass(frozen=True)
class MeanOfVoxels:
    """Image pyramids: the mean of the voxels that exist."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        mean(src, dst)

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        n, _, _, x = chunks.shape
        # One call for all: threads that make many short ones wait for one another.
        mean(chunks, dst.reshape(*dst.shape[:2], n, x // 2).transpose(2, 0, 1, 3))


@dataclass(frozen=True)
class ModeOfKnown:
    """Label pyramids: the mode of the known voxels."""

    extents: tuple[Extent, ...]
    """Where labels are known, in voxels of level 0."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        z, y, x = start
        here = Extent(start, (z + src.shape[0], y + src.shape[1], x + src.shape[2]))
        known = [e.level(level).intersect(here) for e in self.extents]
        known = [e for e in known if e.n_vox]
        if not known:
            dst[...] = 0
            return
        # Compiled code, and half a second to load: only labels need it.
        from thc_dask.kernels.mode import mode

        if here in known:
            mode(src, dst)
        else:
            mask = scratch.array("known", src.shape, np.dtype(np.uint8))
            mask[...] = 0
            for extent in known:
                mask[extent.shift((-z, -y, -x)).slices] = 1
            mode(src, dst, mask)

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        (z, y, x), width = start, chunks.shape[3]
        for i, chunk in enumerate(chunks):
            half = dst[:, :, i * width // 2 : (i + 1) * width // 2]
            self.halve(chunk, half, level, (z, y, x + i * width))


@dataclass(frozen=True)
class Target:
    """The pyramid that is written."""

    location: Location
    prefix: str
    """Group of the pyramid: empty for the image, ``labels/roi/`` for a label set."""
    name: str
    """Name of the arrays: ``image``, ``roi``."""
    dtype: np.dtype[Any]
    """Type of the voxels."""
    codec: Codec
    halving: Halving
    replaces: bool = False
    """Whether shards are there already that are to go where now all is zero."""
    counted: bool = False
    """Whether the intensities of the finest level are counted on the way."""

    def path(self, level: Level) -> str:
        """Return the path of the array of a level."""
        return f"{self.prefix}{level.index}/{self.name}"

    def receipt_key(self, wave: int, place: Sequence[int]) -> str:
        """Return where the receipt of a finished column lies until the pyramid is published."""
        name = ".".join(map(str, place))
        return f"{RECEIPTS}/{self.prefix}{self.name}/{wave}/{name}.json"

    def receipts(self, wave: int) -> dict[Vox, Receipt]:
        """Return the receipts that an interrupted run left, of shards that are still there."""
        keys = self.location.keys(f"{RECEIPTS}/{self.prefix}{self.name}/{wave}")
        keys = [key for key in keys if key.endswith(".json")]
        # In a bucket far away, one after the other, these are hours; on a disk threads only hinder.
        with ThreadPoolExecutor(LOOKS) as pool:
            kept = partial(self._kept, wave)
            found = (pool.map if "://" in self.location.url else map)(kept, keys)
            return {_place_of(receipt): receipt for receipt in found if receipt is not None}

    def _kept(self, wave: int, key: str) -> Receipt | None:
        """Return a receipt, None where a shard of it is not there as it says."""
        data = self.location.get(key)
        receipt: Receipt = json.loads(data) if data else {"shards": []}
        sizes = [(s["n_bytes"], self.location.size(s["key"]) or 0) for s in receipt["shards"]]
        whole = sizes and all(a == b for a, b in sizes)
        if whole and self.counts(wave):
            whole = self.location.size(counts_key(key)) is not None
        return receipt if whole else None

    def counts(self, wave: int) -> bool:
        """Whether columns of a wave are counted."""
        return self.counted and wave == 0

    def reader(self, level: Level) -> ArrayReader:
        """Return a reader of what has been written."""
        return ArrayReader(
            self.location, self.path(level), level.grid.shape, level.chunk, level.shard, self.dtype
        )


@dataclass(frozen=True)
class Halved:
    """The last level of a wave, halved: the source of the next wave."""

    target: Target
    fine: Level
    level: Level

    @property
    def grid(self) -> Grid:
        return self.level.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.target.dtype

    @property
    def unit(self) -> Vox:
        z, y, x = (max(1, c // 2) for c in self.fine.chunk)
        return z, y, x

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "level", "level": self.fine.index}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        source = self.target.reader(self.fine)
        (z0, y0, x0), (nz, ny, nx) = start, out.shape
        z1, y1, x1 = z0 + nz, y0 + ny, x0 + nx
        wanted = Extent(start, (z1, y1, x1))
        # Twice the box, as far as the finer level goes.
        fine = Extent((2 * z0, 2 * y0, 2 * x0), (2 * z1, 2 * y1, 2 * x1)).intersect(
            self.fine.grid.extent
        )
        out[...] = 0
        for shard, places in source.by_shard(fine):
            for place in places:
                chunk = shard.get(place)
                if chunk is None:
                    continue
                have = source.chunk_extent(place)
                half = scratch.array("half", have.level(1).shape, self.dtype)
                valid = chunk[tuple(slice(0, n) for n in have.shape)]
                self.target.halving.halve(valid, half, self.fine.index, have.start)
                both = have.level(1).intersect(wanted)
                z, y, x = have.level(1).start
                out[both.shift((-start[0], -start[1], -start[2])).slices] = half[
                    both.shift((-z, -y, -x)).slices
                ]


@dataclass(frozen=True)
class Tally:
    """What a source counted while a block was read: clipped voxels, say."""

    box: Extent
    counts: NDArray[np.int64]


class Spare:
    """Memory that columns use one after the other: fresh memory is slow."""

    def __init__(self) -> None:
        self._free: list[NDArray[Any]] = []

    def take(self, shape: Vox, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array with the content of before; every voxel of it will be written."""
        for i, array in enumerate(self._free):
            if array.shape == shape:
                return self._free.pop(i)
        return np.empty(shape, dtype)

    def give(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Take arrays back."""
        self._free += arrays


class Column:
    """The shards of one wave's levels over the same microns, while they are made."""

    def __init__(
        self, target: Target, levels: Sequence[Level], extent: Extent, spare: Spare | None = None
    ) -> None:
        self.extent = extent
        self._spare = Spare() if spare is None else spare
        self._target, self._levels = target, levels
        self._writers: list[ShardWriter | None] = [None] * len(levels)
        self.place = levels[0].shard_place(extent)
        self._coarse = [
            self._spare.take(extent.level(j).shape, target.dtype) for j in range(1, len(levels))
        ]
        self._counts = (
            ImageCounts(extent, levels[0].chunk) if target.counts(levels[0].wave) else None
        )

    def add_layer(self, layer: NDArray[Any], z: int, y: int = 0) -> None:
        """Compress (rows of) a layer of the finest level and halve it.

        ``z`` and ``y`` count from the column's first voxel.
        """
        self._add(0, layer, z, y)

    def finish(self) -> None:
        """Compress the coarser levels."""
        for j in range(1, len(self._levels)):
            coarse, step = self._coarse[j - 1], self._levels[j].chunk[0]
            for z in range(0, coarse.shape[0], step):
                self._add(j, coarse[z : z + step], z)
        self._spare.give(self._coarse)
        self._coarse = []
        for writer in self._writers:
            if writer is not None:
                writer.close()

    def commit(self, read: Tally | None = None) -> Receipt:
        """Make the shards appear, coarsest first, and return what was written.

        ``read`` is what the source counted in the block that the column is part of.
        """
        shards = []
        for level, writer in zip(self._levels[::-1], self._writers[::-1], strict=True):
            key = shard_key(self._target.path(level), self.place)
            done = {"n_bytes": 0, "crc32c": 0} if writer is None else writer.commit()
            if writer is None and self._target.replaces:
                self._target.location.remove(key)
            shards.append({"key": key, **done})
        receipt: Receipt = {"place": list(self.place), "shards": shards[::-1]}
        if read is not None:
            receipt["read"] = {"box": str(read.box), "counts": read.counts.tolist()}
        # A receipt that a power cut loses is only work done twice; the shards themselves are safe.
        key = self._target.receipt_key(self._levels[0].wave, self.place)
        if self._counts is not None:
            counts = self._counts.encoded()
            self._target.location.put(counts_key(key), counts, durable=False)
        self._target.location.put(key, json.dumps(receipt).encode(), durable=False)
        return receipt

    def abort(self) -> None:
        """Leave nothing of it behind."""
        for writer in self._writers:
            if writer is not None:
                writer.abort()

    def _add(self, j: int, layer: NDArray[Any], z: int, top: int = 0) -> None:
        """Halve a layer of a level and compress its chunks; it begins at ``z`` and ``top``."""
        c = self._levels[j].chunk
        step = c[2] * _chunks_of_row(c, layer.dtype)
        for y in range(0, layer.shape[1], c[1]):
            for x in range(0, layer.shape[2], step):
                row = layer[:, y : y + c[1], x : x + step]
                chunks = _gather(row, c)
                if j == 0 and self._counts is not None:
                    self._counts.add(chunks, row.shape, (z, top + y, x))
                if j + 1 < len(self._levels):
                    self._halve(j, chunks, row.shape, (z, top + y, x))
                for i, chunk in enumerate(chunks):
                    data = encode_chunk(chunk, self._target.codec)
                    if data is not None:
                        place = (z // c[0], (top + y) // c[1], x // c[2] + i)
                        self._writer(j).append(place, data)

    def _halve(self, j: int, chunks: NDArray[Any], shape: Vox, inside: Vox) -> None:
        """Halve chunks side by side, ``shape`` voxels of a level from ``inside`` the column on."""
        (z, y, x), (n_z, n_y, n_x) = inside, shape
        here = Extent(inside, (z + n_z, y + n_y, x + n_x))
        half = self._coarse[j][here.level(1).slices]
        a, b, c = (s >> j for s in self.extent.start)
        halving, level = self._target.halving, self._levels[j].index
        width = chunks.shape[3]
        full = chunks.shape[1:3] == (n_z, n_y) and not any(n % 2 for n in chunks.shape[1:])
        whole = n_x // width if full else 0
        if whole:
            row = half[:, :, : whole * width // 2]
            halving.halve_row(chunks[:whole], row, level, (a + z, b + y, c + x))
        for i in range(whole, len(chunks)):
            at = i * width
            part = chunks[i, :n_z, :n_y, : n_x - at]  # without what fills it up
            rest = half[:, :, at // 2 : -(-(at + width) // 2)]
            halving.halve(part, rest, level, (a + z, b + y, c + x + at))

    def _writer(self, j: int) -> ShardWriter:
        writer = self._writers[j]
        if writer is None:
            level = self._levels[j]
            sink = self._target.location.sink(shard_key(self._target.path(level), self.place))
            writer = ShardWriter(sink, level.chunks_per_shard, self._target.codec)
            self._writers[j] = writer
        return writer


def _gather(row: NDArray[Any], chunk: Vox) -> NDArray[Any]:
    """Return the chunks along a row as (n, z, y, x), filled up with zeros, in a thread's buffer."""
    n_z, n_y, n_x = row.shape
    n = -(-n_x // chunk[2])
    chunks = scratch.array("chunks", (_chunks_of_row(chunk, row.dtype), *chunk), row.dtype)[:n]
    whole = n_x // chunk[2]
    if (n_z, n_y, whole) != (*chunk[:2], n):
        chunks[...] = 0
    if whole:
        # A line of a chunk as one opaque item: numpy copies that twice as fast as its voxels.
        line = np.dtype((np.void, chunk[2] * row.itemsize))
        lines = row[:, :, : whole * chunk[2]].view(line).transpose(2, 0, 1)
        chunks[:whole, :n_z, :n_y].view(line)[..., 0] = lines
    if whole < n:
        rest = row[:, :, whole * chunk[2] :]
        chunks[whole, :n_z, :n_y, : rest.shape[2]] = rest
    return chunks


def _chunks_of_row(chunk: Vox, dtype: np.dtype[Any]) -> int:
    """Return how many chunks side by side are made at a time."""
    return max(1, ROW_BYTES // (math.prod(chunk) * dtype.itemsize))


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

    def stream(self, boxes: Sequence[Extent]) -> Iterator[Receipt]:
        """Write blocks of whole shards; yield the receipt of each column once it is on disk.

        What fails for a moment only is made again: what a write loses is not known, so all columns
        that have no receipt yet.
        """
        attempts = Attempts(self.target.location.url, FILES)
        wave, left, seen = self, list(boxes), set(self.done)
        while True:
            # Waiting for the disk must not keep a core from compressing.
            with ThreadPoolExecutor(self.threads) as pool, ThreadPoolExecutor(COMMITTERS) as disk:
                job = _Job(wave, pool, disk)
                failure: Exception | None = None
                try:
                    for receipt in job.run(left):
                        attempts.succeeded()
                        seen.add(_place_of(receipt))
                        yield receipt
                except BaseException as error:
                    job.abort()
                    if not isinstance(error, Exception):
                        raise
                    failure = error
            if failure is None:
                return
            late = [receipt for receipt in job.finished if _place_of(receipt) not in seen]
            if late:
                attempts.succeeded()
            attempts.failed(failure)
            seen.update(map(_place_of, late))
            yield from late
            wave = replace(wave, done=frozenset(seen))
            left = wave.missing(left)


def _place_of(receipt: Receipt) -> Vox:
    z, y, x = receipt["place"]
    return z, y, x


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

    def __init__(self, wave: Wave, pool: ThreadPoolExecutor, disk: ThreadPoolExecutor) -> None:
        self._wave, self._pool, self._disk = wave, pool, disk
        self._open: dict[Vox, Column] = {}
        self._spare = Spare()
        self._reading: deque[_Slab] = deque()
        self._units: deque[list[Future[list[Future[Receipt]]]]] = deque()  # by slab
        self._adding: dict[Vox, Future[Any]] = {}  # who adds to columns what the last slab has
        self._commits: list[Future[Receipt]] = []
        self.finished: list[Receipt] = []
        """Receipts of all columns that are on disk, asked for or not."""
        self._buffers = deque(np.empty(0, wave.reader.dtype) for _ in range(SLABS))
        shard_bytes = math.prod(wave.levels[0].shard) * wave.target.dtype.itemsize
        held = wave.target.location.sink_bytes(shard_bytes)
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
                    self._wave.target, self._wave.levels, extent, self._spare
                )
            found.append(self._open[place])
        return found

    def abort(self) -> None:
        units = [unit for units in self._units for unit in units]
        reads = [part for slab in self._reading for part in slab.parts]
        begun: list[Future[Any]] = [*reads, *units]
        for future in (*begun, *self._commits):
            future.cancel()
        wait(begun)
        # Units that ended have begun commits that nobody has asked for yet.
        ended = [u.result() for u in units if not u.cancelled() and u.exception() is None]
        wait([*self._commits, *(commit for commits in ended for commit in commits)])
        for column in self._open.values():
            column.abort()

    def _read(self, box: Extent, extent: Extent) -> None:
        """Have a slab read by all threads, once they have done what they were given before."""
        self._buffers.rotate()
        if len(self._buffers[0]) < extent.n_vox:
            self._buffers[0] = np.empty(extent.n_vox, self._wave.reader.dtype)
        voxels = self._buffers[0][: extent.n_vox].reshape(extent.shape)
        z, y, x = extent.start
        parts = [
            self._pool.submit(
                fill,
                self._wave.reader,
                voxels[part.slices],
                (z + part.start[0], y + part.start[1], x),
            )
            for part in self._parts(extent)
        ]
        self._reading.append(_Slab(box, extent, voxels, parts))

    def _parts(self, slab: Extent) -> Iterator[Extent]:
        """Yield boxes of a slab that threads read side by side; no unit of the source is cut."""
        wanted = 2 * self._wave.threads
        size = list(slab.shape)
        for axis in (0, 1):
            n, u = slab.shape[axis], self._wave.reader.unit[axis]
            # Where a slab does not begin with a unit, a cut would fall into one.
            if u < n and slab.start[axis] % u == 0:
                size[axis] = math.ceil(n / wanted / u) * u
                break
        return iter(blocks(slab.shape, size))

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
        receipt = column.commit(tally)
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
        receipt = self._commits[0].result()
        del self._commits[0]  # not before: an interrupt must find what is still being written
        return receipt


def halved_reader(target: Target, levels: Sequence[Level], wave: int) -> Reader:
    """Return the source of a wave after the first."""
    first = next(level for level in levels if level.wave == wave)
    return Halved(target, levels[first.index - 1], first)


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
        shard_bytes = math.prod(run[0].shard) * target.dtype.itemsize
        plan = plan_blocks(
            run[0], source.unit, target.dtype.itemsize, memory_bytes,
            target.location.sink_bytes(shard_bytes), most_open() // len(run),
        )  # fmt: skip
        boxes = plan.boxes
        if wanted is not None:
            near = [e.level(run[0].index) for e in wanted]
            boxes = [b for b in boxes if any(b.intersect(e).n_vox for e in near)]
        wave = Wave(
            target, tuple(run), source, plan.depth, plan.rows, threads, plan.memory_bytes,
            plan.waste,
        )  # fmt: skip
        planned.append((wave, boxes))
    return planned
