"""How levels, chunks and shards lie on one another: decided from shapes alone.

A *wave* is a run of levels that one task writes from one reading: a shard of each level
covers the same microns as the shard of the level above it, so halving never needs a
neighbour. The first level of the next wave is made from the last level of this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from thc_dask.errors import RequestError
from thc_dask.grid import AXES, Extent, Grid, Vox, blocks

CHUNK = 64
SLABS = 3  # one is read, one waits, one is compressed
SLAB_BYTES = 2**24  # worth reading at a time, and still in cache when it is compressed
SHARD_CHUNKS = 4  # along each axis; a shard of 256**3 voxels, see docs/decisions/0002


@dataclass(frozen=True)
class Level:
    """One level of a pyramid."""

    index: int
    """0 is the finest."""
    grid: Grid
    """Shape, spacing and origin of this level."""
    chunk: Vox
    """Voxels that are compressed together (z, y, x)."""
    shard: Vox
    """Voxels of one file (z, y, x), whole chunks."""
    wave: int
    """Levels of one wave are written by the same tasks."""

    @property
    def chunks_per_shard(self) -> Vox:
        """Chunks along z, y, x in one shard."""
        z, y, x = (s // c for s, c in zip(self.shard, self.chunk, strict=True))
        return z, y, x

    def shard_place(self, extent: Extent) -> Vox:
        """Return which shard begins where ``extent`` does."""
        z, y, x = (a // s for a, s in zip(extent.start, self.shard, strict=True))
        return z, y, x

    @property
    def n_shards(self) -> int:
        """Number of shards that cover the level."""
        return math.prod(-(-n // s) for n, s in zip(self.grid.shape, self.shard, strict=True))


def default_levels(grid: Grid) -> int:
    """Return how many levels bring the longest side to 256 voxels or fewer.

    >>> default_levels(Grid((720, 1420, 5805), (1.17, 1.17, 1.17)))
    6
    """
    n = 1
    while max(grid.level(n - 1).shape) > 256:
        n += 1
    return n


def default_chunk(shape: Vox) -> Vox:
    """Return 64 voxels a side; wider in y and x where the volume is thin in z.

    >>> default_chunk((720, 1420, 5805)), default_chunk((1, 1420, 5805))
    ((64, 64, 64), (64, 512, 512))
    """
    side = CHUNK
    while min(shape[0], CHUNK) * (2 * side) ** 2 <= CHUNK**3:
        side *= 2
    return CHUNK, side, side


def default_shard(chunk: Vox) -> Vox:
    """Return four chunks a side: three levels come from one reading."""
    return chunk[0] * SHARD_CHUNKS, chunk[1] * SHARD_CHUNKS, chunk[2] * SHARD_CHUNKS


def make_levels(
    grid: Grid, n_levels: int | None = None, chunk: Vox | None = None, shard: Vox | None = None
) -> list[Level]:
    """Return the levels of a pyramid over ``grid``, finest first.

    An axis that fits into one chunk gets a chunk of just its size. Raises RequestError where a
    shard is not a whole number of chunks.
    """
    n_levels = default_levels(grid) if n_levels is None else n_levels
    chunk = chunk or default_chunk(grid.shape)
    shard = shard or default_shard(chunk)
    if not 1 <= n_levels <= 24:
        raise RequestError(f"levels {n_levels}: give 1 to 24")
    for axis, c, s in zip(AXES, chunk, shard, strict=True):
        if c < 2 or c % 2 or s < c or s % c:
            even = max(2, c + c % 2)
            raise RequestError(
                f"chunk {chunk} and shard {shard}: along {axis} the chunk must be even and the "
                f"shard a multiple of it, such as a chunk of {even} and a shard of "
                f"{even * SHARD_CHUNKS}"
            )
    levels: list[Level] = []
    wave = 0
    while len(levels) < n_levels:
        top = grid.level(len(levels))
        depth = _wave_depth(top.shape, chunk, shard)
        for j in range(min(depth, n_levels - len(levels))):
            k = len(levels)
            sizes = [
                (n, n) if fits else (c, s >> j)
                for n, fits, c, s in zip(
                    grid.level(k).shape, _fits(top.shape, chunk), chunk, shard, strict=True
                )
            ]
            levels.append(
                Level(
                    k,
                    grid.level(k),
                    tuple(c for c, _ in sizes),  # type: ignore[arg-type]
                    tuple(s for _, s in sizes),  # type: ignore[arg-type]
                    wave,
                )
            )
        wave += 1
    return levels


def _fits(shape: Vox, chunk: Vox) -> list[bool]:
    return [n <= c for n, c in zip(shape, chunk, strict=True)]


def _wave_depth(shape: Vox, chunk: Vox, shard: Vox) -> int:
    """Return how often a shard can be halved and still be whole chunks."""
    free = [(c, s) for c, s, f in zip(chunk, shard, _fits(shape, chunk), strict=True) if not f]
    if not free:
        return 24  # one chunk holds it all, at every level
    depth = 1
    while all(
        (s >> depth) % c == 0 and (s >> depth) >= c and (s >> (depth - 1)) % 2 == 0 for c, s in free
    ):
        depth += 1
    return depth


def waves(levels: Sequence[Level]) -> Iterator[list[Level]]:
    """Yield the levels wave by wave."""
    for wave in range(levels[-1].wave + 1):
        yield [level for level in levels if level.wave == wave]


@dataclass(frozen=True)
class Blocks:
    """How a level is cut into blocks that are each read once, by one task."""

    boxes: list[Extent]
    """Whole shards."""
    depth: int
    """Planes that are read at a time: whole chunks, or all of a block."""
    rows: int
    """Rows of these that are read at a time: whole chunks, or all of a block."""
    memory_bytes: int
    """What the buffers of one block hold."""
    waste: float
    """Voxels the source decodes over voxels there are; 1 if each is decoded once."""
    decoding_bytes: int = 0
    """What is held besides to decode large units of the source."""


def plan_blocks(
    level: Level, unit: Vox, itemsize: int, memory_bytes: int, sink_bytes: int = 0,
    most_columns: int = 2**30, decoding: Callable[[Vox], int] | None = None,
) -> Blocks:  # fmt: skip
    """Return the blocks that decode each unit of the source once, if ``memory_bytes`` allows.

    A unit is what the source decodes at a time: a strip, a plane, a cuboid. A block is a row of
    shards along x, because rows are what files hold, and is read one chunk deep at a time. Both
    grow until no unit is cut, or as far as the memory goes: then the smallest waste is taken.
    Of a shard that is being written ``sink_bytes`` are held, and no block may have more than
    ``most_columns`` shards open at a time. ``decoding`` says what is held besides while so many
    voxels (z, y, x) are read at a time; where that never fits, blocks are as large as without it.
    """
    shape, shard, chunk = level.grid.shape, level.shard, level.chunk
    plans: list[tuple[int, tuple[int, ...], int, int, float, Vox, int, int]] = []
    for nz in _counts(shape[0], shard[0]):
        for depth in _depths(nz * shard[0], chunk[0]):
            for ny in _counts(shape[1], shard[1]):
                for nx in _counts(shape[2], shard[2]):
                    size = (nz * shard[0], ny * shard[1], nx * shard[2])
                    rows = _rows(level, size, depth, unit, itemsize)
                    memory = block_memory(level, size, depth, rows, itemsize, sink_bytes)
                    held = 0 if decoding is None else decoding((depth, rows, size[2]))
                    waste = _waste(shape, (depth, *size[1:]), unit)
                    # Two per cent of waste are not worth a larger block.
                    cost = (round(waste * 50), -nx, ny, depth, nz)
                    columns = ny * nx * max(1, depth // shard[0])
                    too_much = 2 * (memory > memory_bytes or columns > most_columns)
                    too_much = too_much or int(memory + held > memory_bytes)
                    plans.append((too_much, cost, memory, held, waste, size, depth, rows))
    # What fits goes by its cost; where nothing fits, the smallest is taken.
    best = min(plans, key=lambda p: (p[0], p[2] if p[0] == 2 else 0, p[1]))
    _, _, memory, held, waste, size, depth, rows = best
    return Blocks(list(blocks(shape, size)), depth, rows, memory, waste, held)


def _counts(n: int, shard: int) -> list[int]:
    """Return numbers of shards to try along an axis, from one to all."""
    total = -(-n // shard)
    return sorted({min(1 << k, total) for k in range(total.bit_length() + 1)})


def _depths(block: int, chunk: int) -> list[int]:
    """Return numbers of planes to read at a time: whole chunks that divide the block."""
    steps = [chunk << k for k in range((block // chunk).bit_length()) if block % (chunk << k) == 0]
    return sorted({*steps, block})


def _rows(level: Level, size: Vox, depth: int, unit: Vox, itemsize: int) -> int:
    """Return how many rows of a block to read at a time: few, so that they stay in cache.

    Chunks stand in a shard in the order z, y, x whatever is read at a time, so rows are cut only
    where one layer of chunks is read.
    """
    chunk = level.chunk[1]
    if depth != level.chunk[0] or unit[1] > chunk or chunk % unit[1]:
        return size[1]
    row_bytes = chunk * depth * min(size[2], level.grid.shape[2]) * itemsize
    rows = chunk
    while rows < size[1] and 2 * row_bytes * (rows // chunk) <= SLAB_BYTES:
        rows *= 2
    return min(rows, size[1])


def _waste(shape: Vox, size: Vox, unit: Vox) -> float:
    """Return voxels decoded over voxels that exist, when ``size`` voxels are read at a time."""
    ratio = 1.0
    for n, s, u in zip(shape, size, unit, strict=True):
        decoded = sum(min(n, -(-min(a + s, n) // u) * u) - a // u * u for a in range(0, n, s))
        ratio *= decoded / n
    return ratio


def block_memory(
    level: Level, size: Vox, depth: int, rows: int, itemsize: int, sink_bytes: int = 0
) -> int:
    """Return the bytes a block of ``size`` voxels holds while it is written.

    ``SLABS`` times what is read at a time, and of the shards that are open what waits for the disk,
    ``sink_bytes`` each, and of each coarser level the layer of chunks that is being made.
    """
    z, y, x = (min(s, n) for s, n in zip(size, level.grid.shape, strict=True))
    slabs = SLABS * min(depth, z) * min(rows, y) * x
    deep = min(max(level.shard[0], depth), z)
    columns = math.prod(-(-n // s) for n, s in zip((deep, y, x), level.shard, strict=True))
    n_deep, shard = -(-deep // level.shard[0]), level.shard[0]
    coarse = sum(
        n_deep * min(level.chunk[0], shard >> j) * y * x >> 2 * j
        for j in range(1, min(deep, shard).bit_length())
    )
    return (slabs + coarse) * itemsize + columns * sink_bytes
