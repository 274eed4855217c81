"""Any source to a store: plan it, write it shard by shard, publish it."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import __version__, schedule
from thc_dask.errors import RequestError
from thc_dask.grid import Box, Extent, Grid, Um, Vox, parse_spacing
from thc_dask.reader import Reader, read
from thc_dask.sources import open_reader
from thc_dask.store.layout import Level, block_memory, default_chunk, default_shard, make_levels
from thc_dask.store.location import locate
from thc_dask.store.publish import begin, check_place, interrupted, publish_image, sweep
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
    window: str | None = None,
    order: str | None = None,
    flip: str = "",
    crop: Box | None = None,
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Write the store as ``convert`` does and return the plan that was followed."""
    location = locate(store)
    _refuse_nesting(source, store)
    reader = _seen(source, spacing, order, flip, crop)
    chunk = chunk or default_chunk(reader.grid.shape)
    shard = shard or default_shard(chunk)
    pyramid = make_levels(reader.grid, levels, chunk, shard)
    options = {"codec": str(Codec.parse(codec)), "window": _window_asked(reader, window)}
    begun = interrupted(location) if resume else None
    record: dict[str, Any] = {
        "software": f"thc_dask {__version__}",
        "provenance": reader.provenance,
        "options": options,
        "layout": _layout(reader.grid, len(pyramid), chunk, shard),
    }
    if begun is not None:
        _same(location.url, begun, record)
    elif not dry_run:
        check_place(location, overwrite)
    reader, normalisation = _eight_bit(reader, options["window"], begun, memory_bytes, dry_run)
    target = Target(location, "", "image", reader.dtype, Codec.parse(codec), MeanOfVoxels())
    tasks = plan_waves(target, pyramid, reader, schedule.n_threads(), memory_bytes)
    plan = plan_conversion(reader, pyramid, tasks)
    if dry_run or (begun is not None and begun.get("finished")):
        return plan
    record["normalisation"] = normalisation
    with location.lock():
        if begun is None:
            begin(location, {**record, "plan": asdict(plan)}, overwrite)
        else:
            sweep(location)
        receipts = run_waves(_unfinished(tasks) if begun else tasks, progress)
        if normalisation is not None:
            record["normalisation"] = normalisation | _clipped(receipts, reader.grid.n_vox)
        limits = (0.0, float(np.iinfo(reader.dtype).max))
        publish_image(target, pyramid, receipts, record, _window(target, pyramid[-1]), limits)
    return plan


def _seen(
    source: Any, spacing: str | None, order: str | None, flip: str, crop: Box | None
) -> Reader:
    """Return the source with its axes as z, y, x, and only the part that is wanted."""
    spacing_um = None if spacing is None else parse_spacing(spacing)
    reader = open_reader(source, spacing_um, order)
    if not flip and crop is None:
        return reader
    from thc_dask import views

    return views.crop(views.reorder(reader, flip=flip), crop)


def _window_asked(reader: Reader, window: str | None) -> str | None:
    """Return the window to make 8 bit with; None keeps the grey levels."""
    if window is None and reader.dtype in (np.uint8, np.uint16):
        return None
    if reader.dtype.kind not in "uif":
        raise RequestError(f"source: voxels are {reader.dtype.name}; give whole or real numbers")
    if reader.dtype == np.uint8:
        raise RequestError(f"window {window!r}: the source is 8 bit already; leave --window out")
    return window or "auto"


def _eight_bit(
    reader: Reader,
    window: str | None,
    begun: dict[str, Any] | None,
    memory_bytes: int,
    dry_run: bool,
) -> tuple[Reader, dict[str, Any] | None]:
    """Return the reader in 8 bit and what the store says of it."""
    if window is None:
        return reader, None
    from thc_dask.kernels.intensity import Window
    from thc_dask.normalise import Normalisation, normalise
    from thc_dask.views import EightBit

    if begun is not None and begun["normalisation"] is not None:
        found = begun["normalisation"]
        chosen = Normalisation(Window(*found["window"]), found["chosen"], found["source_dtype"])
    elif dry_run:
        chosen = Normalisation(Window(0.0, 1.0), "not counted in a dry run", reader.dtype.name)
    else:
        chosen = normalise(reader, window, memory_bytes)
    return EightBit(reader, chosen.window), chosen.record()


def _clipped(receipts: Sequence[Receipt], n_vox: int) -> dict[str, Any]:
    """Return how many voxels the window clipped, in all."""
    # Every column of a block carries the block's counts; the last to end has them all.
    blocks: dict[str, list[int]] = {}
    for receipt in receipts:
        if "read" in receipt:
            box, counts = receipt["read"]["box"], receipt["read"]["counts"]
            blocks[box] = [max(a, b) for a, b in zip(blocks.get(box, counts), counts, strict=True)]
    below, above, nan = (sum(counts) for counts in zip(*blocks.values(), strict=True))
    return {
        "n_below": below,
        "n_above": above,
        "n_nan": nan,
        "clipped_below": below / n_vox,
        "clipped_above": above / n_vox,
    }


def _layout(grid: Grid, levels: int, chunk: Vox, shard: Vox) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "spacing_um": list(grid.spacing_um),
        "origin_um": list(grid.origin_um),
        "levels": levels,
        "chunk": list(chunk),
        "shard": list(shard),
    }


def _same(url: str, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise RequestError where a conversion that began is not the one that is asked for now."""
    for what in ("provenance", "layout", "options", "software"):
        before, now = begun.get(what), wanted[what]
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            odd = next(k for k in {**before, **now} if before.get(k) != now.get(k))
            before, now = before.get(odd), now.get(odd)
            what = "the source's" if what == "provenance" else what
            what = f"{what} {odd}"
        raise RequestError(
            f"{url}: {what} was {before} when the conversion began and is {now} now; give what "
            "was given then, or --overwrite to start anew"
        )


def _unfinished(
    tasks: Sequence[tuple[Wave, list[Extent]]],
) -> list[tuple[Wave, list[Extent]]]:
    """Return the tasks without what an interrupted run has finished."""
    left = []
    for wave, boxes in tasks:
        done = wave.target.receipts(wave.levels[0].wave)
        rest = replace(wave, done=frozenset(done), kept=tuple(done.values()))
        left.append((rest, rest.missing(boxes)))
    return left


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
        receipts += wave.kept
        # An interrupt may come outside of the generator: whoever cleans up needs its threads ended.
        with closing(_stream(wave, boxes)) as found:
            for receipt in found:
                receipts.append(receipt)
                z, y, x = (p * s for p, s in zip(receipt["place"], first.shard, strict=True))
                stop = (z + first.shard[0], y + first.shard[1], x + first.shard[2])
                done += Extent((z, y, x), stop).intersect(first.grid.extent).n_vox
                if progress is not None:
                    progress(done, total)
    return receipts


def _stream(wave: Wave, boxes: Sequence[Extent]) -> Generator[Receipt, None, None]:
    if schedule.is_local():
        yield from wave.stream(boxes)
        return
    alone = replace(wave, threads=1)
    for receipts in schedule.run(alone.write, [[box] for box in boxes]):
        yield from receipts


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
    window: str | None = None,
    order: str | None = None,
    flip: str = "",
    crop: Box | None = None,
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Write a source to a sharded multiscale OME-Zarr store and return it, opened.

    Runs on the current ``distributed.Client``, else on what ``dask.config`` names, else in
    threads. The bytes written are the same.

    Parameters
    ----------
    source
        A TIFF or PNG file, a folder of slices or of stacks, ``phantom:z,y,x``, or a lazy
        ``(z, y, x)`` ``xarray.DataArray``.
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
    window
        What becomes 0 and 255: ``"LOW:HIGH"`` in grey levels of the source, ``"p0.1:p99.9"`` as
        percentiles of all its voxels, or ``"auto"``. Sources of more than 16 bit get ``"auto"``;
        16 bit is kept unless a window is given.
    order
        The source's axes as they stand: ``"xyz"`` for a source of (x, y, z).
    flip
        Axes of the result that run backwards: ``"z"``, ``"yx"``.
    crop
        Only voxels whose centre is in this half-open box, micrometers.
    memory_bytes
        What the buffers of one process may hold.
    overwrite
        Replace a store that exists.
    resume
        Go on with a conversion that was interrupted; what it finished is kept.
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
        window=window, order=order, flip=flip, crop=crop, memory_bytes=memory_bytes,
        overwrite=overwrite, resume=resume, progress=progress,
    )  # fmt: skip
    return open_volume(store)
