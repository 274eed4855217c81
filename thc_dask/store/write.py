"""The only code that writes voxels: whole shards, each by one task, metadata last.

A block of whole shards is read layer by layer (a layer is one chunk deep) into a buffer that
is used again. While one layer is compressed the next is read. From each chunk, while it is in
cache, come the voxels of the next level and the compressed bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Grid, Vox, blocks
from thc_dask.kernels.mean import mean
from thc_dask.reader import Reader
from thc_dask.store.layout import Level, plan_blocks, waves
from thc_dask.store.location import Location
from thc_dask.store.shards import ArrayReader, Codec, ShardWriter, encode_chunk, scratch, shard_key

RECEIPTS = "thc/receipts"

Receipt = dict[str, Any]
Progress = Callable[[int, int], None]

MOST_COMMITS = 64  # finished columns that may wait for the disk


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
            if sizes and all(a == b for a, b in sizes):
                z, y, x = receipt["place"]
                found[z, y, x] = receipt
        return found

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
        for place in source.chunks(fine):
            chunk = source.get(place)
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
        self._target.location.put(key, json.dumps(receipt).encode(), durable=False)
        return receipt

    def abort(self) -> None:
        """Leave nothing of it behind."""
        for writer in self._writers:
            if writer is not None:
                writer.abort()

    def _add(self, j: int, layer: NDArray[Any], z: int) -> None:
        level = self._levels[j]
        done: list[tuple[Vox, bytes]] = []
        for box in blocks(layer.shape, (layer.shape[0], *level.chunk[1:])):
            part = layer[box.slices]
            if part.shape != level.chunk:
                chunk = scratch.array("chunk", level.chunk, self._target.dtype)
                chunk[...] = 0
                inside = chunk[tuple(slice(0, n) for n in part.shape)]
                inside[...] = part
                part = inside
            elif part.flags.c_contiguous:
                chunk = part
            else:
                chunk = part = _gather(part)
            self._halve(j, part, (z, box.start[1], box.start[2]))
            data = encode_chunk(chunk, self._target.codec)
            if data is not None:
                c = level.chunk
                done.append(((z // c[0], box.start[1] // c[1], box.start[2] // c[2]), data))
        if done:
            self._writer(j).append(done)

    def _halve(self, j: int, part: NDArray[Any], inside: Vox) -> None:
        if j + 1 == len(self._levels):
            return
        z, y, x = inside
        box = Extent(inside, (z + part.shape[0], y + part.shape[1], x + part.shape[2]))
        start = self.extent.level(j).start
        where = (start[0] + z, start[1] + y, start[2] + x)
        half = self._coarse[j][box.level(1).slices]
        self._target.halving.halve(part, half, self._levels[j].index, where)

    def _writer(self, j: int) -> ShardWriter:
        writer = self._writers[j]
        if writer is None:
            level = self._levels[j]
            sink = self._target.location.sink(shard_key(self._target.path(level), self._place))
            writer = ShardWriter(sink, level.chunks_per_shard, self._target.codec)
            self._writers[j] = writer
        return writer


def _gather(part: NDArray[Any]) -> NDArray[Any]:
    """Return a whole chunk of a layer in one piece, in this thread's buffer."""
    chunk = scratch.array("chunk", part.shape, part.dtype)
    base = part.base
    if not isinstance(base, np.ndarray) or not base.flags.c_contiguous:
        chunk[...] = part
        return chunk
    # A row as one opaque item: numpy copies that twice as fast as its voxels one by one.
    row = np.dtype((np.void, part.shape[2] * part.itemsize))
    offset = part.ctypes.data - base.ctypes.data
    rows: NDArray[Any] = np.ndarray(part.shape[:2], row, base, offset, part.strides[:2])
    np.ndarray(part.shape[:2], row, chunk)[...] = rows
    return chunk


@dataclass(frozen=True)
class Wave:
    """What one task needs to write blocks of a wave, wherever it runs."""

    target: Target
    levels: tuple[Level, ...]
    reader: Reader
    depth: int
    """Planes that are read at a time."""
    threads: int
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
        """Write blocks of whole shards; yield the receipt of each column once it is on disk."""
        # Waiting for the disk must not keep a core from compressing.
        with ThreadPoolExecutor(self.threads) as pool, ThreadPoolExecutor(4) as disk:
            job = _Job(self, pool, disk)
            try:
                yield from job.run(boxes)
            except BaseException:
                job.abort()
                raise


class _Job:
    """A running ``Wave.stream``: two layer buffers, and the columns that are open."""

    def __init__(self, wave: Wave, pool: ThreadPoolExecutor, disk: ThreadPoolExecutor) -> None:
        self._wave, self._pool, self._disk = wave, pool, disk
        self._open: set[Column] = set()
        self._units: list[Future[Future[Receipt] | None]] = []
        self._commits: list[Future[Receipt]] = []
        self._buffers = [np.empty(0, wave.reader.dtype), np.empty(0, wave.reader.dtype)]

    def run(self, boxes: Sequence[Extent]) -> Iterator[Receipt]:
        first = self._wave.levels[0]
        for box in boxes:
            # A slow disk must not collect finished columns in memory without end.
            while len(self._commits) > MOST_COMMITS:
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
                self._wave.reader.read_into,
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
        plan = plan_blocks(run[0], source.unit, target.dtype.itemsize, memory_bytes)
        boxes = plan.boxes
        if wanted is not None:
            near = [e.level(run[0].index) for e in wanted]
            boxes = [b for b in boxes if any(b.intersect(e).n_vox for e in near)]
        planned.append((Wave(target, tuple(run), source, plan.depth, threads), boxes))
    return planned
