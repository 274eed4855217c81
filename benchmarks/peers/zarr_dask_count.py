"""Intensities by region from a store, with zarr, dask threads, the zarrs pipeline and bincount."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import zarr
from contender import Stages, arguments

N_LABELS = 9
PLANES_AT_ONCE = 2  # 2 x 256 x 256 voxels stay in cache while bincount looks at them


def count_block(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the table of one block as (1, 1, 1, label, intensity)."""
    table = np.zeros(N_LABELS * 256, np.int64)
    for z in range(0, len(image), PLANES_AT_ONCE):
        part = slice(z, z + PLANES_AT_ONCE)
        key = labels[part].astype(np.int64).ravel()
        key *= 256
        key += image[part].ravel()
        table += np.bincount(key, minlength=len(table))
    return table.reshape(1, 1, 1, N_LABELS, 256)


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    dask.config.set(scheduler="threads")
    with stages("count"):
        paths = args.input / "labels" / "roi" / "0" / "roi", args.input / "0" / "image"
        labels, image = (
            da.from_array(zarr.open_array(str(p), mode="r"), chunks=(args.shard,) * 3, name=False)
            for p in paths
        )
        tables = da.map_blocks(
            count_block, labels, image, dtype=np.int64, new_axis=(3, 4),
            chunks=(*((1,) * n for n in image.numblocks), (N_LABELS,), (256,)),
        )  # fmt: skip
        table = tables.sum(axis=(0, 1, 2)).compute()
    np.save(args.output, table)
    stages.report("zarr", "zarrs", "dask", "numpy")


if __name__ == "__main__":
    main()
