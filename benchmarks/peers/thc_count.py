"""Intensities by region from a store, by the package's own function, timed without the imports."""

from __future__ import annotations

import importlib

import numpy as np
from contender import Stages, arguments

import thc_dask


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    # the package imports xarray, zarr and its kernels when they are first needed: here
    volume = thc_dask.open_volume(str(args.input))
    importlib.import_module("thc_dask.kernels.histogram")
    with stages("count"):
        volume = thc_dask.count(volume, "roi")
    np.save(args.output, volume["counts/roi/plane/counts"].sum("plane").to_numpy())
    stages.report("thc_dask", "numba", "numpy")


if __name__ == "__main__":
    main()
