"""Intensities by region from a store, with the tools that group or measure labelled arrays.

    python grouped_count.py STORE TABLE.npy --how flox|xhistogram|dask_image|scipy

Each reads shards with zarr (the zarrs pipeline, dask threads) and counts as its documentation has
it. They take minutes for a gigavoxel, so give a smaller store and compare voxels a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import zarr
from contender import Stages

N_LABELS, N_INTENSITIES = 9, 256


def with_flox(labels: da.Array, image: da.Array) -> np.ndarray:
    """Count groups of two variables."""
    import flox

    counts, *_ = flox.groupby_reduce(
        da.ones_like(image, dtype=np.uint8).ravel(), labels.ravel(), image.ravel(), func="count",
        expected_groups=(np.arange(N_LABELS), np.arange(N_INTENSITIES)), fill_value=0,
    )  # fmt: skip
    return np.asarray(counts)


def with_xhistogram(labels: da.Array, image: da.Array) -> np.ndarray:
    """Count into bins of two variables."""
    from xhistogram.core import histogram

    bins = [np.arange(n + 1) - 0.5 for n in (N_LABELS, N_INTENSITIES)]
    counts, _ = histogram(labels, image, bins=bins)
    return np.asarray(counts)


def with_dask_image(labels: da.Array, image: da.Array) -> np.ndarray:
    """Measure a histogram for each label."""
    from dask_image import ndmeasure

    found = ndmeasure.histogram(
        image, 0, N_INTENSITIES, N_INTENSITIES, label_image=labels, index=np.arange(N_LABELS)
    )
    (counts,) = dask.compute(found)
    return np.stack([np.zeros(N_INTENSITIES, int) if h is None else h for h in counts])


def with_scipy(labels: da.Array, image: da.Array) -> np.ndarray:
    """Measure a histogram for each label, in memory."""
    from scipy import ndimage

    labels, image = dask.compute(labels, image)
    index = np.arange(N_LABELS)
    found = ndimage.histogram(image, 0, N_INTENSITIES, N_INTENSITIES, labels=labels, index=index)
    return np.stack([np.zeros(N_INTENSITIES, int) if h is None else h for h in found])


WAYS: dict[str, Callable[[da.Array, da.Array], np.ndarray]] = {
    "flox": with_flox,
    "xhistogram": with_xhistogram,
    "dask_image": with_dask_image,
    "scipy": with_scipy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("input", type=Path, help="the store to count")
    parser.add_argument("output", type=Path, help="file for the table (.npy)")
    parser.add_argument("--how", choices=sorted(WAYS), required=True)
    parser.add_argument("--shard", type=int, default=256)
    args, _ = parser.parse_known_args()
    stages = Stages()
    if find_spec("zarrs"):
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    dask.config.set(scheduler="threads")
    with stages("count"):
        paths = args.input / "labels" / "roi" / "0" / "roi", args.input / "0" / "image"
        labels, image = (
            da.from_array(zarr.open_array(str(p), mode="r"), chunks=(args.shard,) * 3, name=False)
            for p in paths
        )
        table = WAYS[args.how](labels, image)
    np.save(args.output, table.astype(np.int64))
    package = {"dask_image": "dask-image"}.get(args.how, args.how)
    stages.report("zarr", "dask", "numpy", package)


if __name__ == "__main__":
    main()
