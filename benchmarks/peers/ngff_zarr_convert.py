"""TIFF folder to OME-Zarr 0.5 with ngff-zarr, by its bin-shrink mean.

Bin-shrink is faster than its default, a Gaussian, and gives the same voxels as the others.
"""

from __future__ import annotations

import ngff_zarr
from contender import Slices, Stages, arguments
from dask_slices import as_dask
from zarr.codecs import ZstdCodec


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    image = ngff_zarr.to_ngff_image(as_dask(Slices(args.input), args.shard), dims=["z", "y", "x"])
    with stages("to_multiscales"):
        multiscales = ngff_zarr.to_multiscales(
            image,
            scale_factors=[2**k for k in range(1, args.levels)],
            method=ngff_zarr.Methods.DASK_BIN_SHRINK,
            chunks=args.chunk,
            cache=False,
        )
    with stages("to_ngff_zarr"):
        ngff_zarr.to_ngff_zarr(
            str(args.output),
            multiscales,
            version="0.5",
            chunks_per_shard=args.shard // args.chunk,
            compressors=ZstdCodec(level=1),
        )
    stages.report("ngff-zarr", "zarr", "dask", "numpy")


if __name__ == "__main__":
    main()
