"""Distributed out-of-core analytics for brain-scale image volumes.

>>> import thc_dask as thc
>>> from tempfile import mkdtemp
>>> volume = thc.convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
>>> volume = thc.labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
>>> counts = thc.histogram(volume, by="roi")
>>> counts.dims
('region', 'intensity')
"""

__version__ = "0.1.0"

from thc_dask.analysis.regions import compare, fractions, histogram
from thc_dask.convert import convert
from thc_dask.count import count
from thc_dask.demo import demo
from thc_dask.errors import ThcError
from thc_dask.figures import figures
from thc_dask.grid import Box, Extent, Grid
from thc_dask.info import info
from thc_dask.labels import labels
from thc_dask.report import report
from thc_dask.schemes import Scheme
from thc_dask.sources import open_source
from thc_dask.sources.phantom import write_phantom as phantom
from thc_dask.store.read import open_volume
from thc_dask.verify import verify

__all__ = [
    "Box",
    "Extent",
    "Grid",
    "Scheme",
    "ThcError",
    "compare",
    "convert",
    "count",
    "demo",
    "figures",
    "fractions",
    "histogram",
    "info",
    "labels",
    "open_source",
    "open_volume",
    "phantom",
    "report",
    "verify",
]
