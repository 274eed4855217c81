"""What a conversion will take on a cluster, from rates that were measured there."""

from __future__ import annotations

from dataclasses import dataclass

from thc_dask.grid import Grid, Vox
from thc_dask.store.layout import (
    default_chunk,
    default_levels,
    default_shard,
    make_levels,
    waves,
)

RATIO = 1.3
"""Bytes of voxels over bytes stored: of microCT, whose noise does not compress."""


@dataclass(frozen=True)
class Rates:
    """What was measured, all threads together."""

    codec_bytes_per_s: float
    """Voxels halved and compressed."""
    task_s: float
    """To hand out an item, run nothing and collect its result, in seconds."""
    write_bytes_per_s: float | None = None
    """To the store; None where none was named."""
    read_bytes_per_s: float | None = None
    """From the store; stands in for the source."""


@dataclass(frozen=True)
class Expected:
    """What a conversion of a volume comes to."""

    shape: Vox
    """Voxels (z, y, x)."""
    n_tasks: int
    """Blocks, at most."""
    read_bytes: int
    """Voxels of the source."""
    write_bytes: int
    """Shards of all levels, compressed ``RATIO`` times."""
    seconds: float
    """If reading, compressing and writing go on side by side."""
    most_seconds: float
    """If they wait for one another."""
    bound: str
    """What takes longest."""


def expect(shape: Vox, rates: Rates, itemsize: int = 1) -> Expected:
    """Return what to expect of a conversion of ``shape`` voxels of ``itemsize`` bytes.

    Examples
    --------
    >>> e = expect((720, 1420, 5805), Rates(500e6, 0.002, 300e6, 400e6))
    >>> e.n_tasks, round(e.seconds), e.bound
    (417, 17, 'writing')
    """
    grid = Grid(shape, (1.0, 1.0, 1.0))
    chunk = default_chunk(shape)
    levels = make_levels(grid, default_levels(grid), chunk, default_shard(chunk))
    n_tasks = sum(wave[0].n_shards for wave in waves(levels))
    all_bytes = sum(level.grid.n_vox for level in levels) * itemsize
    read_bytes, write_bytes = grid.n_vox * itemsize, round(all_bytes / RATIO)
    parts = {
        "compressing": all_bytes / rates.codec_bytes_per_s,
        "handing out tasks": n_tasks * rates.task_s,
    }
    if rates.read_bytes_per_s:
        parts["reading"] = read_bytes / rates.read_bytes_per_s
    if rates.write_bytes_per_s:
        parts["writing"] = write_bytes / rates.write_bytes_per_s
    bound = max(parts, key=lambda name: parts[name])
    return Expected(
        shape, n_tasks, read_bytes, write_bytes, parts[bound], sum(parts.values()), bound
    )
