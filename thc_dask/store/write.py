"""The only code that writes voxels: whole shards, each by one task, metadata last.

A block of whole shards is read layer by layer (a layer is one chunk deep) into a buffer that
is used again. While one layer is compressed the next is read. From each chunk, while it is in
cache, come the voxels of the next level and the compressed bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
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
from thc_dask.store.layout import Level, plan_blocks, waves
from thc_dask.store.location import Location
from thc_dask.store.shards import ArrayReader, Codec, ShardWriter, encode_chunk, scratch, shard_key

RECEIPTS = "thc/receipts"

Receipt = dict[str, Any]

ROW_BYTES = 2**20  # chunks side by side that are made at a time: what a core's cache holds
MOST_COMMITS = 24  # finished columns that may wait for the disk
WAITING_BYTES = 2**27  # what these may hold, where a store takes its shards in one piece
COMMITTERS = 12  # files that are made safe at a time: one flush of the disk serves them all


class Halving(Protocol):
    """How the next level is made."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        """Fill ``dst`` from ``src``, the voxels of ``level`` that begin at ``start``."""


@dataclass(frozen=True)
class MeanOfVoxels:
    """Image pyramids: the mean of the voxels that exist."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        mean(src, dst)


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
        found: dict[Vox, Receipt] = {}
        for key in self.location.keys(f"{RECEIPTS}/{self.prefix}{self.name}/{wave}"):
            data = self.location.get(key) if key.endswith(".json") else None
            receipt: Receipt = json.loads(data) if data else {"shards": [], "place": []}
            sizes = [(s["n_bytes"], self.location.size(s["key"]) or 0) for s in receipt["shards"]]
            whole = sizes and all(a == b for a, b in sizes)
            if whole and (not self.counts(wave) or self.location.size(counts_key(key)) is not None):
                found[_place_of(receipt)] = receipt
        return found

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


class Column:
    """The shards of one wave's levels over the same microns, while they are made."""

    def __init__(self, target: Target, levels: Sequence[Level], extent: Extent) -> None:
        self.extent = extent
        self._target, self._levels = target, levels
        self._writers: list[ShardWriter | None] = [None] * len(levels)
        self._place = levels[0].shard_place(extent)
        self._coarse = [
            np.zeros(extent.level(j).shape, target.dtype) for j in range(1, len(levels))
        ]
        self._counts = (
            ImageCounts(extent, levels[0].chunk) if target.counts(levels[0].wave) else None
        )

    def add_layer(self, layer: NDArray[Any], z: int) -> None:
        """Compress a layer of the finest level and halve it; ``z`` counts from the column's top."""
        self._add(0, layer, z)

    def finish(self) -> None:
        """Compress the coarser levels."""
        for j in range(1, len(self._levels)):
            coarse, step = self._coarse[j - 1], self._levels[j].chunk[0]
            for z in range(0, coarse.shape[0], step):
                self._add(j, coarse[z : z + step], z)
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
            key = shard_key(self._target.path(level), self._place)
            done = {"n_bytes": 0, "crc32c": 0} if writer is None else writer.commit()
            if writer is None and self._target.replaces:
                self._target.location.remove(key)
            shards.append({"key": key, **done})
        receipt: Receipt = {"place": list(self._place), "shards": shards[::-1]}
        if read is not None:
            receipt["read"] = {"box": str(read.box), "counts": read.counts.tolist()}
        # A receipt that a power cut loses is only work done twice; the shards themselves are safe.
        key = self._target.receipt_key(self._levels[0].wave, self._place)
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

    def _add(self, j: int, layer: NDArray[Any], z: int) -> None:
        """Halve a layer of a level and compress its chunks; ``z`` counts from the column's top."""
        c = self._levels[j].chunk
        step = c[2] * _chunks_of_row(c, layer.dtype)
        for y in range(0, layer.shape[1], c[1]):
            for x in range(0, layer.shape[2], step):
                row = layer[:, y : y + c[1], x : x + step]
                n_z, n_y, n_x = row.shape
                chunks = _gather(row, c)
                if j == 0 and self._counts is not None:
                    self._counts.add(chunks, (n_z, n_y, n_x), (z, y, x))
                for i, chunk in enumerate(chunks):
                    if j + 1 < len(self._levels):
                        at = i * c[2]
                        part = chunk[:n_z, :n_y, : n_x - at]  # without what fills it up
                        self._halve(j, part, (z, y, x + at))
                    data = encode_chunk(chunk, self._target.codec)
                    if data is not None:
                        self._writer(j).append((z // c[0], y // c[1], x // c[2] + i), data)

    def _halve(self, j: int, part: NDArray[Any], inside: Vox) -> None:
        """Halve a part of a level that begins ``inside`` the column's voxels of it."""
        (z, y, x), (a, b, c) = inside, self.extent.start
        n_z, n_y, n_x = (-(-n // 2) for n in part.shape)
        half = self._coarse[j][z // 2 : z // 2 + n_z, y // 2 : y // 2 + n_y, x // 2 : x // 2 + n_x]
        where = ((a >> j) + z, (b >> j) + y, (c >> j) + x)
        self._target.halving.halve(part, half, self._levels[j].index, where)

    def _writer(self, j: int) -> ShardWriter:
        writer = self._writers[j]
        if writer is None:
            level = self._levels[j]
            sink = self._target.location.sink(shard_key(self._target.path(level), self._place))
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


class _Job:
    """A running ``Wave.stream``: two layer buffers, and the columns that are open."""

    def __init__(self, wave: Wave, pool: ThreadPoolExecutor, disk: ThreadPoolExecutor) -> None:
        self._wave, self._pool, self._disk = wave, pool, disk
        self._open: set[Column] = set()
        self._units: list[Future[Future[Receipt] | None]] = []
        self._commits: list[Future[Receipt]] = []
        self.finished: list[Receipt] = []
        """Receipts of all columns that are on disk, asked for or not."""
        self._buffers = [np.empty(0, wave.reader.dtype), np.empty(0, wave.reader.dtype)]
        shard_bytes = math.prod(wave.levels[0].shard) * wave.target.dtype.itemsize
        held = wave.target.location.sink_bytes(shard_bytes)
        self._most_commits = min(MOST_COMMITS, max(1, WAITING_BYTES // held))

    def run(self, boxes: Sequence[Extent]) -> Iterator[Receipt]:
        first = self._wave.levels[0]
        for box in boxes:
            # A slow disk must not collect finished columns in memory without end.
            while len(self._commits) > self._most_commits:
                yield self._next()
            columns: list[Column] = []
            top = box.start[0]  # of the shards whose columns are not open yet
            tally: Tally | None = None
            for z in range(box.start[0], box.stop[0], self._wave.depth):
                slab = Extent(
                    (z, *box.start[1:]), (min(z + self._wave.depth, box.stop[0]), *box.stop[1:])
                )
                voxels, counts = self._read(slab)
                if counts is not None:
                    tally = Tally(box, counts if tally is None else tally.counts + counts)
                self._settle()
                columns = [c for c in columns if c.extent.stop[0] > slab.start[0]]
                while top < slab.stop[0]:
                    columns += self._columns(box, top)
                    top += first.shard[0]
                self._units = [
                    self._pool.submit(self._unit, c, voxels, slab, tally) for c in columns
                ]
                yield from self._receipts(wait_for_all=False)
        self._settle()
        yield from self._receipts(wait_for_all=True)

    def _columns(self, box: Extent, top: int) -> list[Column]:
        """Return the columns of a block that begin at plane ``top`` and are still to be made."""
        first = self._wave.levels[0]
        below = Extent(
            (top, *box.start[1:]), (min(top + first.shard[0], box.stop[0]), *box.stop[1:])
        )
        extents = (e.shift(below.start) for e in blocks(below.shape, first.shard))
        columns = [
            Column(self._wave.target, self._wave.levels, extent)
            for extent in extents
            if first.shard_place(extent) not in self._wave.done
        ]
        self._open.update(columns)
        return columns

    def abort(self) -> None:
        running: list[Future[Any]] = [*self._units, *self._commits]
        for future in running:
            future.cancel()
        wait(self._units)
        # Units that ended have begun commits that nobody has asked for yet.
        ended = [u.result() for u in self._units if not u.cancelled() and u.exception() is None]
        wait([*self._commits, *(commit for commit in ended if commit is not None)])
        for column in self._open:
            column.abort()

    def _read(self, slab: Extent) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Return voxels, read by all threads while they finish those before, and their counts."""
        self._buffers.reverse()
        if len(self._buffers[0]) < slab.n_vox:
            self._buffers[0] = np.empty(slab.n_vox, self._wave.reader.dtype)
        voxels = self._buffers[0][: slab.n_vox].reshape(slab.shape)
        z, y, x = slab.start
        parts = [
            self._pool.submit(
                fill,
                self._wave.reader,
                voxels[part.slices],
                (z + part.start[0], y + part.start[1], x),
            )
            for part in self._parts(slab)
        ]
        try:
            counted = [found for part in parts if (found := part.result()) is not None]
        finally:
            wait(parts)
        return voxels, np.sum(counted, axis=0) if counted else None

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
        self, column: Column, voxels: NDArray[Any], slab: Extent, tally: Tally | None
    ) -> Future[Receipt] | None:
        """Add to a column what a slab holds of it; commit it if that was its last."""
        z, y, x = slab.start
        here = column.extent.intersect(slab)
        part = voxels[here.shift((-z, -y, -x)).slices]
        top = here.start[0] - column.extent.start[0]
        step = self._wave.levels[0].chunk[0]
        for a in range(0, len(part), step):
            column.add_layer(part[a : a + step], top + a)
        if here.stop[0] < column.extent.stop[0]:
            return None
        column.finish()
        return self._disk.submit(self._commit, column, tally)

    def _commit(self, column: Column, tally: Tally | None) -> Receipt:
        receipt = column.commit(tally)
        self._open.discard(column)
        self.finished.append(receipt)
        return receipt

    def _settle(self) -> None:
        """Wait for the layer that is being compressed, and hear of its errors."""
        for future in self._units:
            commit = future.result()
            if commit is not None:
                self._commits.append(commit)
        self._units = []

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
        wave = Wave(target, tuple(run), source, plan.depth, threads, plan.memory_bytes, plan.waste)
        planned.append((wave, boxes))
    return planned
