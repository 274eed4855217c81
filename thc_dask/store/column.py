"""The shards over the same microns, one of each level of a wave, while they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.store.imagecounts import ImageCounts
from thc_dask.store.layout import Level
from thc_dask.store.pipeline import NO_HALF, Encoding, can_encode
from thc_dask.store.shards import ShardWriter, encode_chunk, scratch, shard_key
from thc_dask.store.target import Receipt, Target

ROW_BYTES = 2**20  # chunks side by side that are made at a time: what a core's cache holds
LANES = 8  # voxels

Counted = Callable[[Extent, NDArray[np.uint32]], None]
"""Hears of the intensities of a column, as ``ImageCounts`` has them; the array is used again."""


@dataclass(frozen=True)
class Tally:
    """What a source counted while a block was read: clipped voxels, say."""

    box: Extent
    counts: NDArray[np.int64]


class Spare:
    """Memory that columns use one after the other: fresh memory is slow."""

    def __init__(self) -> None:
        self._free: list[NDArray[Any]] = []  # in one piece each, of any length
        self._lock = Lock()  # columns are begun and finished side by side

    def take(self, shape: Vox, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array with the content of before; every voxel of it will be written.

        Its lines are whole words apart, as machine code wants them.
        """
        line = -(-shape[2] // LANES) * LANES
        n = shape[0] * shape[1] * line
        with self._lock:
            free = sorted((piece.size, i) for i, piece in enumerate(self._free))
            fits = [i for size, i in free if size >= n]
            piece = self._free.pop(fits[0]) if fits else np.empty(n, dtype)
        return piece[:n].reshape(*shape[:2], line)[:, :, : shape[2]]

    def give(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Take arrays back."""
        with self._lock:
            self._free += [array.base for array in arrays if array.base is not None]


class Column:
    """The shards of one wave's levels over the same microns, while they are made."""

    def __init__(
        self, target: Target, levels: Sequence[Level], extent: Extent,
        spare: Spare | None = None, spare_counts: Spare | None = None,
    ) -> None:  # fmt: skip
        self.extent = extent
        self._spare = Spare() if spare is None else spare
        self._spare_counts = Spare() if spare_counts is None else spare_counts
        self._target, self._levels = target, levels
        self._writers: list[ShardWriter | None] = [None] * len(levels)
        self.place = levels[0].shard_place(extent)
        self._coarse: list[NDArray[Any]] = []
        self._can_encode, self._halving = False, 0
        self._counts: ImageCounts | None = None

    def add_layer(self, layer: NDArray[Any], z: int, y: int = 0) -> None:
        """Compress (rows of) a layer of the finest level, and what of the others is whole by that.

        Layers come in their order, and their rows too.

        ``z`` and ``y`` count from the column's first voxel.
        """
        if not (z or y):
            self._begin()
        self._add(0, layer, z, y)

    def finish(self) -> None:
        """Close the shards, all of whose layers have been added."""
        self._spare.give(self._coarse)
        self._coarse = []
        for j, writer in enumerate(self._writers):
            if writer is not None and writer.is_empty:
                writer.abort()
                self._writers[j] = None
            elif writer is not None:
                writer.close()

    def commit(self, read: Tally | None = None, counted: Counted | None = None) -> Receipt:
        """Make the shards appear, coarsest first, and return what was written.

        ``read`` is what the source counted in the block that the column is part of. ``counted``
        hears of the intensities, where these are counted; else they go with the receipt.
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
        counts = None if self._counts is None else self._counts.numbers
        wave = self._levels[0].wave
        self._target.put_receipt(wave, receipt, counts if counted is None else None)
        if counts is not None:
            if counted is not None:
                counted(self.extent, counts)
            self._spare_counts.give([counts])
        return receipt

    def abort(self) -> None:
        """Leave nothing of it behind."""
        for writer in self._writers:
            if writer is not None:
                writer.abort()

    def _begin(self) -> None:
        """Take memory: not before, since a column is known of long before its first layer."""
        self._can_encode = can_encode()
        self._halving = self._target.halving.code(self._target.dtype) if self._can_encode else 0
        # Of each coarser level no more than the layer of chunks that is being made.
        for j in range(1, len(self._levels)):
            n_z, n_y, n_x = self.extent.level(j).shape
            layer = min(n_z, self._levels[j].chunk[0]), n_y, n_x
            self._coarse.append(self._spare.take(layer, self._target.dtype))
        if self._target.counts(self._levels[0].wave):
            chunk = self._levels[0].chunk
            self._counts = ImageCounts(self.extent, chunk, self._spare_counts.take)

    def _add(self, j: int, layer: NDArray[Any], z: int, top: int = 0) -> None:
        """Halve a layer of a level and compress its chunks; it begins at ``z`` and ``top``.

        Where that makes a layer of the next level whole, go on with it.
        """
        self._make(j, layer, z, top)
        writer = self._writers[j]
        if writer is not None:
            writer.pause()  # many shards are open at a time
        n_z, n_y, _ = self.extent.level(j).shape
        stop = z + layer.shape[0]
        if j + 1 == len(self._levels) or top + layer.shape[1] < n_y:
            return
        first = self._first(j, z)
        if stop == n_z or stop - first == 2 * self._levels[j + 1].chunk[0]:
            self._add(j + 1, self._coarse[j][: -(-(stop - first) // 2)], first // 2)

    def _first(self, j: int, z: int) -> int:
        """Return where the layer of the next level that ``z`` is part of begins, in this level."""
        step = 2 * self._levels[j + 1].chunk[0]
        return z // step * step

    def _make(self, j: int, layer: NDArray[Any], z: int, top: int) -> None:
        """Halve a layer and compress its chunks."""
        c = self._levels[j].chunk
        code = self._code(j, layer)
        if code is not None:
            self._encode(j, layer, (z, top, 0), code)
            return
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

    def _code(self, j: int, layer: NDArray[Any]) -> int | None:
        """Return the machine code that halves a layer, 0 if nothing is to be halved.

        None where chunks are not made by machine code.
        """
        if not self._can_encode or layer.strides[2] != layer.itemsize:
            return None
        if j + 1 == len(self._levels):
            return 0
        z, y, x = self._levels[j].chunk
        return None if z % 2 or y % 2 or x % LANES else self._halving or None

    def _encode(self, j: int, layer: NDArray[Any], inside: Vox, code: int) -> None:
        """Halve and compress rows of chunks, which begin at ``inside``, by machine code."""
        c, itemsize = self._levels[j].chunk, layer.itemsize
        encoding = Encoding(self._target.codec, c, layer.dtype, code)
        if j == 0 and self._counts is not None:
            encoding.count(*self._counts.addresses(inside))
        start, (step_z, step_y, _) = layer.__array_interface__["data"][0], layer.strides
        coarse = self._half(j, inside, layer.shape) if code else layer
        to, (to_z, to_y, _) = coarse.__array_interface__["data"][0], coarse.strides
        (z, top, left), (n_z, n_y, n_x) = inside, layer.shape
        places = []
        for y in range(0, n_y, c[1]):
            for x in range(0, n_x, c[2]):
                shape = n_z, min(c[1], n_y - y), min(c[2], n_x - x)
                half = NO_HALF
                if code and shape == c:
                    half = to + y // 2 * to_y + x // 2 * itemsize, to_z // 4, to_y // 4
                elif code:
                    part = layer[:, y : y + c[1], x : x + c[2]]
                    self._halve_part(j, part, (z, top + y, left + x))
                size = (*shape[:2], shape[2] * itemsize)
                encoding.add(start + y * step_y + x * itemsize, (step_z, step_y), size, half)
                places.append((z // c[0], (top + y) // c[1], (left + x) // c[2]))
        self._writer(j).encode(encoding, places)

    def _halve_part(self, j: int, part: NDArray[Any], inside: Vox) -> None:
        """Halve a part of a level, which begins ``inside`` the column."""
        z, y, x = inside
        a, b, c = (s >> j for s in self.extent.start)
        self._target.halving.halve(
            part, self._half(j, inside, part.shape), self._levels[j].index, (a + z, b + y, c + x)
        )

    def _half(self, j: int, inside: Vox, shape: Vox) -> NDArray[Any]:
        """Return where the halves of ``shape`` voxels of a level go, which begin ``inside``."""
        (z, y, x), (n_z, n_y, n_x) = inside, shape
        first = self._first(j, z)
        here = Extent((z - first, y, x), (z - first + n_z, y + n_y, x + n_x))
        return self._coarse[j][here.level(1).slices]

    def _halve(self, j: int, chunks: NDArray[Any], shape: Vox, inside: Vox) -> None:
        """Halve chunks side by side, ``shape`` voxels of a level from ``inside`` the column on."""
        (z, y, x), (n_z, n_y, n_x) = inside, shape
        half = self._half(j, inside, shape)
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
