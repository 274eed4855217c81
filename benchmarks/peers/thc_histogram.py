"""Intensities by region from a store without tables, by the package's own lazy function.

That is the peers' task: one table of all voxels, nothing kept. Timed without the imports.
"""

from __future__ import annotations

import numpy as np
from contender import Stages, arguments

from thc_dask import histogram, open_volume
from thc_dask.kernels.histogram import COMPILED
from thc_dask.native import load


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    # machine code, xarray and dask are loaded when they are first needed: here
    load(COMPILED)
    open_volume(str(args.input))
    import dask.array  # noqa: F401

    with stages("count"):
        table = histogram(str(args.input), "roi").compute()
    np.save(args.output, table.values)
    stages.report("thc_dask", "dask", "numpy")


if __name__ == "__main__":
    main()
