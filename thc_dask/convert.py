"""Any source to a store: plan it, write it shard by shard, publish it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import schedule
from thc_dask.errors import RequestError
from thc_dask.grid import Extent, Grid, Um, Vox, parse_spacing
from thc_dask.reader import Reader, read
from thc_dask.sources import open_reader
from thc_dask.store.layout import Level, block_memory, default_chunk, default_shard, make_levels
from thc_dask.store.location import locate
from thc_dask.store.publish import begin, publish_image
from thc_dask.store.read import open_volume
from thc_dask.store.shards import Codec
from thc_dask.store.write import MeanOfVoxels, Progress, Receipt, Target, Wave, plan_waves

if TYPE_CHECKING:
    import xarray as xr

MEMORY_BYTES = 2**30  # what the buffers of one process may hold, unless told otherwise


@dataclass(frozen=True)
class Plan:
    """What a conversion will do; decided before a voxel is read."""

    shape: Vox
    """Voxels (z, y, x)."""
    dtype: str
    """Type of a voxel."""
    spacing_um: Um
    """Micrometers (z, y, x)."""
    n_levels: int
    """Levels of the pyramid."""
    chunk: Vox
    """Voxels compressed together (z, y, x)."""
    shard: Vox
    """Voxels of a file of level 0 (z, y, x)."""
    n_tasks: int
    """Blocks that are read once each."""
    n_shards: int
    """Files of voxels, all levels, at most."""
    read_bytes: int
    """Source voxels."""
    write_bytes: int
    """Voxels of all levels before compression."""
    memory_bytes: int
    """Buffers of one process."""


def plan_conversion(
    reader: Reader, levels: Sequence[Level], tasks: Sequence[tuple[Wave, list[Extent]]]
) -> Plan:
    """Return what writing these levels will cost."""
    itemsize = reader.dtype.itemsize
    return Plan(
        shape=reader.grid.shape,
        dtype=reader.dtype.name,
        spacing_um=reader.grid.spacing_um,
        n_levels=len(levels),
        chunk=levels[0].chunk,
        shard=levels[0].shard,
        n_tasks=sum(len(boxes) for _, boxes in tasks),
        n_shards=sum(level.n_shards for level in levels),
        read_bytes=reader.grid.n_vox * itemsize,
        write_bytes=sum(level.grid.n_vox for level in levels) * itemsize,
        memory_bytes=max(
            block_memory(wave.levels[0], box.shape, wave.depth, itemsize)
            for wave, boxes in tasks
            for box in boxes[:1]
        ),
    )


def write_store(
    source: Any,
    store: str | os.PathLike[str],
    *,
    spacing: str | None = None,
    levels: int | None = None,
    chunk: Vox | None = None,
    shard: Vox | None = None,
    codec: str = "zstd",
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Write the store as ``convert`` does and return the plan that was followed."""
    spacing_um = None if spacing is None else parse_spacing(spacing)
    reader = open_reader(source, spacing_um)
    if reader.dtype not in (np.uint8, np.uint16):
        raise RequestError(
            f"source {source}: voxels are {reader.dtype.name}; a store holds uint8 or uint16"
        )
    location = locate(store)
    _refuse_nesting(source, store)
    grid = reader.grid
    if spacing_um is not None:
        grid = Grid(grid.shape, spacing_um, grid.origin_um)
    chunk = chunk or default_chunk(grid.shape)
    shard = shard or default_shard(chunk)
    pyramid = make_levels(grid, levels, chunk, shard)
    target = Target(location, "", "image", reader.dtype, Codec.parse(codec), MeanOfVoxels())
    tasks = plan_waves(target, pyramid, reader, schedule.n_threads(), memory_bytes)
    plan = plan_conversion(reader, pyramid, tasks)
    if dry_run:
        return plan
    layout = {
        "shape": list(grid.shape),
        "spacing_um": list(grid.spacing_um),
        "origin_um": list(grid.origin_um),
        "levels": len(pyramid),
        "chunk": list(chunk),
        "shard": list(shard),
    }
    record = {"provenance": reader.provenance, "normalisation": None, "layout": layout}
    begin(location, {"software": "thc_dask", **record, "plan": asdict(plan)}, overwrite)
    receipts = run_waves(tasks, progress)
    limits = (0.0, float(np.iinfo(reader.dtype).max))
    publish_image(target, pyramid, receipts, record, _window(target, pyramid[-1]), limits)
    return plan


def run_waves(
    tasks: Sequence[tuple[Wave, list[Extent]]], progress: Progress | None = None
) -> list[Receipt]:
    """Write every wave, one after the other, and return all receipts.

    In threads of this process blocks share the cores and overlap; on any other scheduler each
    block is a task of its own. The shards are the same.
    """
    total = sum(box.n_vox for _, boxes in tasks for box in boxes)
    done = 0
    receipts: list[Receipt] = []
    for wave, boxes in tasks:
        first = wave.levels[0]
        if schedule.is_local():
            found = wave.stream(boxes)
        else:
            alone = replace(wave, threads=1)
            found = (r for rs in schedule.run(alone.write, [[box] for box in boxes]) for r in rs)
        for receipt in found:
            receipts.append(receipt)
            z, y, x = (p * s for p, s in zip(receipt["place"], first.shard, strict=True))
            stop = (z + first.shard[0], y + first.shard[1], x + first.shard[2])
            done += Extent((z, y, x), stop).intersect(first.grid.extent).n_vox
            if progress is not None:
                progress(done, total)
    return receipts


def _window(target: Target, level: Level) -> tuple[float, float]:
    """Return the grey levels that viewers start with: where all but 1 % of the coarsest lie."""
    # Voxels at the type's ends are clipped or empty; they say nothing of the contrast.
    voxels = read(target.reader(level), level.grid.extent)
    inner = voxels[(voxels > 0) & (voxels < np.iinfo(voxels.dtype).max)]
    if not inner.size:
        return 0.0, float(np.iinfo(voxels.dtype).max)
    low, high = np.percentile(inner, (0.5, 99.5), method="inverted_cdf")
    return float(low), float(max(high, low + 1))


def _refuse_nesting(source: Any, store: str | os.PathLike[str]) -> None:
    """Raise RequestError where the store would be written over its own source."""
    if not isinstance(source, str | os.PathLike) or "://" in str(store) or ":" in str(source):
        return
    here, there = Path(source).resolve(), Path(store).resolve()
    if here == there or there in here.parents:
        raise RequestError(
            f"store {store} would replace its own source {source}; choose another name"
        )


def convert(
    source: Any,
    store: str | os.PathLike[str],
    *,
    spacing: str | None = None,
    levels: int | None = None,
    chunk: Vox | None = None,
    shard: Vox | None = None,
    codec: str = "zstd",
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Write a source to a sharded multiscale OME-Zarr store and return it, opened.

    Runs on the current ``distributed.Client``, else on what ``dask.config`` names, else in
    threads. The bytes written are the same.

    Parameters
    ----------
    source
        A TIFF or PNG file, a folder of slices or of stacks, ``phantom:z,y,x``, or a lazy
        ``(z, y, x)`` ``xarray.DataArray``; uint8 or uint16.
    store
        Path or URL of the store.
    spacing
        Distance of voxel centres with its unit, ``"1.17um"`` or ``"2um,1.17um,1.17um"`` (z, y, x);
        None takes what the source says.
    levels
        Levels of the pyramid; by default until the longest side is 256 voxels or fewer.
    chunk, shard
        Voxels (z, y, x) compressed together, and of one file; by default 64 and 256 a side.
    codec
        ``"zstd"``, tuned to CT noise, or ``"zstd:LEVEL"``.
    memory_bytes
        What the buffers of one process may hold.
    overwrite
        Replace a store that exists.
    progress
        Called with voxels done and voxels in all.

    Raises
    ------
    RequestError
        The source or an option is wrong.
    ExistsError
        The store exists.
    DataError
        A file of the source is damaged.
    WriteError
        The target cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume["0/image"].sizes["x"]
    96
    """
    write_store(
        source, store, spacing=spacing, levels=levels, chunk=chunk, shard=shard, codec=codec,
        memory_bytes=memory_bytes, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    return open_volume(store)
