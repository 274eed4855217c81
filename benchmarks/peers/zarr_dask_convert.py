"""TIFF folder to sharded zarr v3 levels with zarr, dask.store, zarrs and a compiled mean.

What a careful user of the dask stack writes: blocks that never share a shard, no locks, the
Rust codec pipeline, and a mean without temporaries.
"""

from __future__ import annotations

from itertools import pairwise

import dask
import dask.array as da
import zarr
from contender import Slices, Stages, arguments, level_shapes
from dask_slices import as_dask
from halve import halve


def create(path: str, shape: tuple[int, ...], chunk: int, shard: int) -> zarr.Array:
    """Return a new array (z, y, x) uint8: zstd 1 chunks in shards."""
    return zarr.create_array(
        path,
        shape=shape,
        chunks=(chunk,) * 3,
        shards=(shard,) * 3,
        dtype="uint8",
        compressors=zarr.codecs.ZstdCodec(level=1),
        dimension_names=("z", "y", "x"),
        fill_value=0,
    )


def halved(finer: zarr.Array, shard: int) -> da.Array:
    """Return the next level, lazily: a block is one shard, made from eight of the level before."""
    source = da.from_array(finer, chunks=(2 * shard,) * 3, name=False)
    chunks = tuple(tuple(-(-n // 2) for n in sizes) for sizes in source.chunks)
    return source.map_blocks(halve, chunks=chunks, dtype="uint8")


def convert(pipeline: str | None, *packages: str) -> None:
    """Run the job of the command line with a codec pipeline; none means zarr's default."""
    args = arguments(__doc__)
    stages = Stages()
    if pipeline:
        zarr.config.set({"codec_pipeline.path": pipeline})
    dask.config.set(scheduler="threads")
    slices = Slices(args.input)
    levels = [
        create(str(args.output / str(k) / args.array), shape, args.chunk, args.shard)
        for k, shape in enumerate(level_shapes(slices.shape, args.levels))
    ]
    with stages("level_0"):
        da.store(as_dask(slices, args.shard), levels[0], lock=False)
    with stages("other_levels"):
        for finer, coarser in pairwise(levels):
            da.store(halved(finer, args.shard), coarser, lock=False)
    stages.report("zarr", "dask", "numba", "numpy", *packages)


if __name__ == "__main__":
    convert("zarrs.ZarrsCodecPipeline", "zarrs")
