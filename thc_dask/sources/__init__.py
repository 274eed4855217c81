"""Outside formats as readers; one file a format."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Um
from thc_dask.reader import Reader, as_dataarray

if TYPE_CHECKING:
    import xarray as xr

KINDS = "a TIFF or PNG file, a folder of slices or stacks, phantom:z,y,x, or an xarray.DataArray"


def open_reader(source: Any, spacing_um: Um | None = None) -> Reader:
    """Return a reader of whatever ``source`` names.

    Parameters
    ----------
    source
        Path of a TIFF or PNG file or of a folder of them, ``phantom:z,y,x``, an
        ``xarray.DataArray`` with dims (z, y, x), or something that already is a reader.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers; None takes what the source says.

    Raises
    ------
    RequestError, DataError
        There is no such source, it is of no known kind, or its files disagree.
    """
    if hasattr(source, "read_into"):
        return source  # type: ignore[no-any-return]
    if hasattr(source, "dims"):
        from thc_dask.sources.dataarray import open_dataarray

        return open_dataarray(source, spacing_um)
    text = os.fspath(source)
    if not text:
        raise RequestError(f"source: the name is empty; give {KINDS}")
    if text.startswith("phantom:"):
        from thc_dask.sources.phantom import open_phantom

        phantom = open_phantom(text)
        if spacing_um is None:
            return phantom
        if len(set(spacing_um)) > 1:
            raise RequestError(f"source {text}: a phantom's voxels are cubes; give one --spacing")
        return replace(phantom, spacing_um=spacing_um[0])
    if "://" in text:
        raise RequestError(f"source {text}: this kind of address is not known; give {KINDS}")
    if not Path(text).exists() and not any(c in text for c in "*?["):
        raise MissingError(f"source {text} does not exist; give {KINDS}")
    from thc_dask.sources.slices import open_slices

    slices: Reader = open_slices(text, spacing_um)
    return slices


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
