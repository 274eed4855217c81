"""What a conversion will cost, before it begins: tasks, bytes, memory, files, room on the disk."""

from __future__ import annotations

import math
import os
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Um, Vox, blocks
from thc_dask.kernels.mean import mean
from thc_dask.reader import Reader, read, stored_dtype
from thc_dask.store.layout import SLABS, Level
from thc_dask.store.shards import Codec, encode_chunk
from thc_dask.waves import Tasks

LEVEL_FILES = 8  # metadata of the group, the voxels and z, y, x; the coordinates themselves
STORE_FILES = 4  # the root and its copy, the receipts, the lock
MOST_SAMPLES = 12
SAMPLE_BYTES = 2**26  # of the source that are decoded for an estimate: a fraction of a second


@dataclass(frozen=True)
class LevelPlan:
    """One level of the pyramid."""

    shape: Vox
    """Voxels (z, y, x)."""
    spacing_um: Um
    """Micrometers (z, y, x)."""
    chunk: Vox
    """Voxels compressed together (z, y, x)."""
    shard: Vox
    """Voxels of a file (z, y, x)."""
    n_shards: int
    """Files of voxels, at most: shards of zeros are not stored."""


@dataclass(frozen=True)
class Buffers:
    """What a block holds in memory while it is written."""

    slab_bytes: int
    """Voxels that are read at a time, several times: some are read while others are compressed."""
    shard_bytes: int
    """Coarser levels of the shards that are open, and what of these waits for the disk."""
    n_planes: int
    """Planes that are read at a time."""
    n_rows: int
    """Rows of these that are read at a time."""
    decoding_bytes: int = 0
    """Large units of the source, stored and decoded, one for each thread that decodes at a time."""
    unit: Vox | None = None
    """Voxels (z, y, x) of such a unit; None where what it holds is little."""


@dataclass(frozen=True)
class Estimate:
    """What compression will make of the voxels, after a look at a few places."""

    write_bytes: int
    """All levels, compressed."""
    ratio: float
    """Bytes of voxels over bytes in the store."""
    n_vox: int
    """Voxels that were looked at."""


@dataclass(frozen=True)
class Plan:
    """What a conversion will do; decided before a voxel is read."""

    shape: Vox
    """Voxels (z, y, x)."""
    dtype: str
    """Type of a voxel in the store."""
    source_dtype: str
    """Type of a voxel in the source."""
    spacing_um: Um
    """Micrometers (z, y, x)."""
    n_levels: int
    """Levels of the pyramid."""
    chunk: Vox
    """Voxels compressed together (z, y, x)."""
    shard: Vox
    """Voxels of a file of level 0 (z, y, x)."""
    levels: tuple[LevelPlan, ...]
    """Finest first."""
    n_tasks: int
    """Blocks that are read once each."""
    n_shards: int
    """Files of voxels, all levels, at most."""
    n_files: int
    """All files, at most."""
    n_passes: int
    """How often the source is read: twice where its grey levels are counted first."""
    waste: float
    """How often a pass decodes each voxel of the source: more than once where blocks cut units."""
    read_bytes: int
    """Source voxels, all passes."""
    write_bytes: int
    """Voxels of all levels before compression."""
    memory_bytes: int
    """Buffers of one process, and what decoding large units of the source takes."""
    buffers: Buffers
    """What these are."""
    free_bytes: int | None = field(default=None, compare=False)
    """Room on the target's disk; None where that cannot be asked."""
    estimate: Estimate | None = field(default=None, compare=False)
    """None unless it was asked for."""


def plan_conversion(
    reader: Reader, levels: Sequence[Level], tasks: Tasks, url: str, n_passes: int = 1,
    n_table_files: int = 0, counting_bytes: int = 0,
) -> Plan:  # fmt: skip
    """Return what writing these levels will cost.

    ``reader`` gives the voxels as they will be stored; ``url`` is where; ``n_table_files`` are
    those of a table that is made on the way, ``counting_bytes`` what counting grey levels holds.
    """
    first = tasks[0][0]
    largest, boxes = max(tasks, key=lambda t: t[0].memory_bytes + t[0].decoding_bytes)
    _, n_y, n_x = boxes[0].shape
    n_planes = min(largest.depth, largest.levels[0].grid.shape[0])
    n_rows = min(largest.rows, n_y)
    slabs = SLABS * n_planes * n_rows * n_x * reader.dtype.itemsize
    # Grey levels are counted before there is a block.
    decoding = max(largest.decoding_bytes, counting_bytes - largest.memory_bytes, 0)
    unit = (largest if largest.decoding_bytes else first).reader.unit if decoding else None
    n_shards = sum(level.n_shards for level in levels)
    stored = stored_dtype(reader)
    return Plan(
        shape=reader.grid.shape,
        dtype=reader.dtype.name,
        source_dtype=stored.name,
        spacing_um=reader.grid.spacing_um,
        n_levels=len(levels),
        chunk=levels[0].chunk,
        shard=levels[0].shard,
        levels=tuple(_level(level) for level in levels),
        n_tasks=sum(len(boxes) for _, boxes in tasks),
        n_shards=n_shards,
        n_files=n_shards + LEVEL_FILES * len(levels) + STORE_FILES + n_table_files,
        n_passes=n_passes,
        waste=first.waste,
        read_bytes=reader.grid.n_vox * stored.itemsize * n_passes,
        write_bytes=sum(level.grid.n_vox for level in levels) * reader.dtype.itemsize,
        memory_bytes=largest.memory_bytes + decoding,
        buffers=Buffers(slabs, largest.memory_bytes - slabs, n_planes, n_rows, decoding, unit),
        free_bytes=free_bytes(url),
    )


def _level(level: Level) -> LevelPlan:
    grid = level.grid
    return LevelPlan(grid.shape, grid.spacing_um, level.chunk, level.shard, level.n_shards)


def free_bytes(url: str) -> int | None:
    """Return the room on the disk where a store is or will be, None for other places."""
    if "://" in url:
        return None
    path = Path(url).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def sample_boxes(reader: Reader, chunk: Vox, seed: int = 0) -> list[Extent]:
    """Return boxes, drawn from the whole volume, that cost little to read.

    As thick as a chunk unless the source decodes far more than that: then thinner, and wider where
    that costs nothing.
    """
    shape, unit, itemsize = reader.grid.shape, reader.unit, stored_dtype(reader).itemsize
    budget = SAMPLE_BYTES // itemsize
    size = [min(n, c) for n, c in zip(shape, chunk, strict=True)]
    for axis in (0, 1):
        while size[axis] > 1 and _decoded(size, unit, shape) > budget // 4:
            size[axis] = -(-size[axis] // 2)
    for axis in (2, 1):
        size[axis] = max(size[axis], min(shape[axis], unit[axis], 4 * chunk[axis]))
    n = max(1, min(MOST_SAMPLES, budget // _decoded(size, unit, shape)))
    drawn = random.Random(seed)
    found = {}
    for _ in range(n):
        z, y, x = (drawn.randrange(m - s + 1) for m, s in zip(shape, size, strict=True))
        box = Extent((z, y, x), (z + size[0], y + size[1], x + size[2]))
        found[str(box)] = box
    return list(found.values())


def _decoded(size: Sequence[int], unit: Vox, shape: Vox) -> int:
    """Return the voxels that are decoded, at most, to read ``size`` of them."""
    return math.prod(
        min(n, (-(-s // u) + (u > 1)) * u) for s, u, n in zip(size, unit, shape, strict=True)
    )


def estimate(reader: Reader, levels: Sequence[Level], codec: Codec, seed: int = 0) -> Estimate:
    """Return what compression will make of the voxels: some are read, halved and compressed.

    ``reader`` gives the voxels as they will be stored. The same ``seed`` looks at the same places.
    """
    chunk = levels[0].chunk
    found: list[list[int]] = [[0, 0] for _ in levels[:3]]  # bytes before and after, by level
    n_vox = 0
    for box in sample_boxes(reader, chunk, seed):
        voxels = read(reader, box)
        n_vox += box.n_vox
        for sums in found:
            for part in _like_chunks(voxels, chunk):
                data = encode_chunk(part, codec)
                sums[0] += part.nbytes
                sums[1] += len(data) if data else 0
            half = np.empty([-(-n // 2) for n in voxels.shape], voxels.dtype)
            mean(voxels, half)
            voxels = half
    shares = [after / before for before, after in found]
    total = sum(
        level.grid.n_vox * reader.dtype.itemsize * shares[min(k, len(shares) - 1)]
        for k, level in enumerate(levels)
    )
    raw = sum(level.grid.n_vox for level in levels) * reader.dtype.itemsize
    return Estimate(round(total), raw / max(total, 1), n_vox)


def _like_chunks(voxels: NDArray[np.generic], chunk: Vox) -> Iterator[NDArray[np.generic]]:
    """Yield voxels in pieces of about as many as a chunk holds: frames compress by their size."""
    n_z, n_y, n_x = (min(c, n) for c, n in zip(chunk, voxels.shape, strict=True))
    parts = [voxels[e.slices].ravel() for e in blocks(voxels.shape, (n_z, n_y, n_x))]
    at_once = max(1, math.prod(chunk) // (n_z * n_y * n_x))
    for i in range(0, len(parts), at_once):
        yield np.concatenate(parts[i : i + at_once])


def warn_of_limits(plan: Plan, memory_bytes: int, url: str | os.PathLike[str]) -> None:
    """Warn where the buffers or the store will be larger than what there is for them."""
    if plan.memory_bytes > memory_bytes:
        need, remedy = _need(plan)
        warnings.warn(
            f"memory: {need} and {_size(memory_bytes)} were given; give --memory "
            f"{_size(plan.memory_bytes, up=True)}, or {remedy}",
            stacklevel=3,
        )
    wanted = plan.estimate.write_bytes if plan.estimate else 0
    if plan.free_bytes is not None and wanted > plan.free_bytes:
        warnings.warn(
            f"{url}: about {_size(wanted)} will be written and {_size(plan.free_bytes)} are free; "
            "free some space, or choose another target; --resume goes on where it stopped",
            stacklevel=3,
        )


def warn_of_workers(plan: Plan, task_bytes: int) -> None:
    """Warn where workers of a cluster have less memory than the smallest blocks need."""
    need, remedy = _need(plan)
    warnings.warn(
        f"memory: {need} and workers have {_size(task_bytes)} for each; give them more memory or "
        f"fewer threads, or {remedy}",
        stacklevel=3,
    )


def _need(plan: Plan) -> tuple[str, str]:
    """Return what makes a plan need so much memory, and what would need less."""
    if plan.buffers.unit is None:
        need = f"the smallest blocks of this layout need {_size(plan.memory_bytes)}"
        return need, "a smaller --shard"
    unit = " x ".join(map(str, plan.buffers.unit))
    return (
        f"the source is decoded in units of {unit} voxels, with which up to "
        f"{_size(plan.memory_bytes)} are held at a time",
        "a source of smaller chunks, strips or tiles",
    )


def _size(n: int, up: bool = False) -> str:
    if up:
        return f"{math.ceil(n / 2**20)}MiB"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n} bytes"
