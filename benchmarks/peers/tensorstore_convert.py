"""TIFF folder to sharded zarr v3 levels with TensorStore, by hand.

Tuned on two cores: slabs of one row of shards (256 x 256 x width) are read straight into memory
that TensorStore may keep, each shard is one write, two slabs are under way at a time, and the
store reads through memory maps. Each level is the downsample driver's mean of the level
before, read back from the store. Taking level 1 from the slabs in memory instead was measured
too: the same time, as the driver, not the decoding, is what it waits for.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import tensorstore as ts
from contender import Slices, Stages, arguments, level_shapes

SLABS_UNDER_WAY = 2


def create(path: Path, shape: tuple[int, ...], chunk: int, shard: int, context: ts.Context):
    """Return a new array (z, y, x) uint8: zstd 1 chunks, crc32c index, fsync as by default."""
    codecs = [
        {"name": "bytes"},
        {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
    ]
    index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [chunk] * 3, "codecs": codecs, "index_codecs": index_codecs}
    grid = {"name": "regular", "configuration": {"chunk_shape": [shard] * 3}}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {
            "shape": shape,
            "data_type": "uint8",
            "dimension_names": ["z", "y", "x"],
            "chunk_grid": grid,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }
    return ts.open(spec, create=True, context=context).result()


def write_finest(slices: Slices, array, shard: int) -> None:
    """Fill level 0, one write for each shard, while the next slab is being read."""
    n_z, n_y, n_x = slices.shape
    under_way: list[list] = []
    for z in range(0, n_z, shard):
        for y in range(0, n_y, shard):
            z1, y1 = min(n_z, z + shard), min(n_y, y + shard)
            slab = slices.read(np.empty((z1 - z, y1 - y, n_x), slices.dtype), z, y)
            under_way.append(
                [
                    array[z:z1, y:y1, x : min(n_x, x + shard)].write(
                        slab[:, :, x : x + shard], can_reference_source_data_indefinitely=True
                    )
                    for x in range(0, n_x, shard)
                ]
            )
            if len(under_way) >= SLABS_UNDER_WAY:
                finish(under_way.pop(0))
    for writes in under_way:
        finish(writes)


def finish(writes: list) -> None:
    """Wait until the shards are on disk."""
    for write in writes:
        write.result()


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    slices = Slices(args.input)
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    with stages("create"):
        levels = [
            create(args.output / str(k) / args.array, shape, args.chunk, args.shard, context)
            for k, shape in enumerate(level_shapes(slices.shape, args.levels))
        ]
    with stages("level_0"):
        write_finest(slices, levels[0], args.shard)
    with stages("other_levels"):
        for finer, coarser in pairwise(levels):
            coarser.write(ts.downsample(finer, [2, 2, 2], "mean")).result()
    stages.report("tensorstore", "numpy", "tifffile")


if __name__ == "__main__":
    main()
