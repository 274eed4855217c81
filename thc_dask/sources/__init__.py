"""Outside formats as readers; one file a format."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Um
from thc_dask.reader import Reader, as_dataarray
from thc_dask.retry import persist
from thc_dask.views import reorder, respace

if TYPE_CHECKING:
    import xarray as xr

NAMED = (
    "a TIFF, PNG or JPEG 2000 file or a folder of them, .npy, HDF5 (file.h5:/dataset), zarr, "
    "NIfTI, MetaImage, NRRD, a mosaic (.json), bossdb://, precomputed://, phantom:z,y,x"
)
KINDS = f"{NAMED}, or an xarray.DataArray"


def open_reader(source: Any, spacing_um: Um | None = None, order: str | None = None) -> Reader:
    """Return a reader of whatever ``source`` names, its axes as z, y, x.

    Parameters
    ----------
    source
        A path, an address, an ``xarray.DataArray`` with dims (z, y, x), or something that already
        is a reader.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers; None takes what the source says.
    order
        The source's axes as they stand, ``"xyz"`` for (x, y, z); None takes what the source says.

    Raises
    ------
    RequestError, DataError
        There is no such source, it is of no known kind, or its files disagree.
    """
    reader = _as_stored(source, spacing_um)
    reader = reorder(reader, order or str(getattr(reader, "axes", "zyx")))
    # Whatever the axes were called in the source, what was asked for holds for the result.
    return reader if spacing_um is None else respace(reader, spacing_um)


def _as_stored(source: Any, spacing_um: Um | None) -> Reader:
    if hasattr(source, "read_into"):
        return source  # type: ignore[no-any-return]
    if all(hasattr(source, name) for name in ("dims", "coords", "dtype")):
        from thc_dask.sources.dataarray import open_dataarray

        return open_dataarray(source, spacing_um)
    if not isinstance(source, str | os.PathLike):
        kind = f"{type(source).__module__}.{type(source).__name__}".removeprefix("builtins.")
        raise RequestError(
            f"source: {kind} is no source; give an xarray.DataArray with dims (z, y, x) and "
            f"coordinates in micrometers, or the name of {NAMED}"
        )
    text = os.fspath(source)
    if not text:
        raise RequestError(f"source: the name is empty; give {KINDS}")
    if text.startswith("phantom:"):
        return _phantom(text, spacing_um)
    return persist(lambda: _named(text, spacing_um), f"source {text}")


def _named(text: str, spacing_um: Um | None) -> Reader:
    """Return a reader of a path or an address, by what it looks like."""
    from thc_dask.sources import hdf5, labelmap, mosaic, omezarr

    reader: Reader
    if omezarr.claims(text):
        reader = omezarr.open_omezarr(text, spacing_um)
        return reader
    if text.startswith("bossdb://"):
        from thc_dask.sources.bossdb import open_bossdb

        reader = open_bossdb(text, spacing_um)
        return reader
    if text.startswith("precomputed://"):
        from thc_dask.sources.precomputed import open_precomputed

        reader = open_precomputed(text, spacing_um)
        return reader
    if "://" in text:
        raise RequestError(f"source {text}: this kind of address is not known; give {KINDS}")
    if hdf5.claims(text):
        reader = hdf5.open_hdf5(text, spacing_um)
        return reader
    if labelmap.claims(text):
        reader = labelmap.open_labelmap(text, spacing_um)
        return reader
    if mosaic.claims(text):
        reader = mosaic.open_mosaic(text, spacing_um, open_reader)
        return reader
    if not Path(text).exists() and not any(c in text for c in "*?["):
        raise MissingError(f"source {text} does not exist; give {KINDS}")
    if text.lower().endswith(".npy"):
        from thc_dask.sources.npy import open_npy

        reader = open_npy(text, spacing_um)
        return reader
    from thc_dask.sources.slices import open_slices

    reader = open_slices(text, spacing_um)
    return reader


def _phantom(text: str, spacing_um: Um | None) -> Reader:
    from thc_dask.sources.phantom import open_phantom

    phantom = open_phantom(text)
    if spacing_um is None:
        return phantom
    if len(set(spacing_um)) > 1:
        raise RequestError(f"source {text}: a phantom's voxels are cubes; give one --spacing")
    return replace(phantom, spacing_um=spacing_um[0])


def open_source(source: Any, spacing_um: Um | None = None, name: str = "image") -> xr.DataArray:
    """Return a source as a lazy ``(z, y, x)`` array with coordinates in micrometers.

    Parameters
    ----------
    source, spacing_um
        As in ``convert``; the spacing as three numbers (z, y, x) in micrometers.
    name
        Of the array.

    Returns
    -------
    xarray.DataArray
        Voxels as a dask array of the source's own type, dims (z, y, x); nothing is read yet.

    Raises
    ------
    RequestError, DataError
        There is no such source, it is of no known kind, or its files disagree.

    Examples
    --------
    >>> open_source("phantom:8,32,48").shape
    (8, 32, 48)
    """
    return as_dataarray(open_reader(source, spacing_um), name)
