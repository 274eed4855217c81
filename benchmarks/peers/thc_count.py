"""Intensities by region from a store, by the package's own function, timed without the imports."""

from __future__ import annotations

import numpy as np
from contender import Stages, arguments

import thc_dask


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    with stages("count"):
        volume = thc_dask.count(str(args.input), "roi")
    np.save(args.output, volume["counts/roi/plane/counts"].sum("plane").to_numpy())
    stages.report("thc_dask", "numba", "numpy")


if __name__ == "__main__":
    main()
