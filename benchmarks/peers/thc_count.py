"""Intensities by region from a store, by the package's own function, timed without the imports."""

from __future__ import annotations

import numpy as np
from contender import Stages, arguments

from thc_dask.count import write_counts
from thc_dask.kernels.histogram import COMPILED
from thc_dask.native import load
from thc_dask.store.tableread import read_array


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    # machine code is loaded when it is first needed: here
    load(COMPILED)
    with stages("count"):
        store = write_counts(str(args.input), "roi")
    np.save(args.output, read_array(store, "counts/roi/plane/counts").sum(axis=0))
    stages.report("thc_dask", "numba", "numpy")


if __name__ == "__main__":
    main()
