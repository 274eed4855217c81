"""Distributed out-of-core analytics for brain-scale image volumes."""

__version__ = "0.1.0"

from thc_dask.convert import convert
from thc_dask.count import count
from thc_dask.labels import labels
from thc_dask.sources import open_source
from thc_dask.store.read import open_volume

__all__ = ["convert", "count", "labels", "open_source", "open_volume"]
