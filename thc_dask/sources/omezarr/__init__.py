"""Zarr v2 and v3, and OME-Zarr 0.4 and 0.5, in folders, in buckets and on the web, as a reader."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError, ThcError
from thc_dask.files import check_request, fingerprint
from thc_dask.grid import Grid, Um, Vox
from thc_dask.remote import Remote, is_remote
from thc_dask.sources.omezarr.metadata import Spatial, grid_values, spatial_of, unit_of
from thc_dask.sources.omezarr.nodes import claims, digest_of, find, full_url, open_node, split

__all__ = ["ZarrArray", "claims", "open_omezarr"]

# Zarr gives arrays of its own: what is read at once is held twice.
PIECE_BYTES = 32 * 2**20


@dataclass(frozen=True, eq=False)
class ZarrArray:
    """A zarr array, such as a level of an OME-Zarr image, as a ``Reader``: see ``open_omezarr``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers, along the axes as stored."""
    axes: str
    """Which axis is which, as stored: ``zyx``, or another order for ``views.reorder``."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order; booleans are uint8."""
    unit: Vox
    """What is decoded at once: a chunk, of sharded arrays an inner one."""
    provenance: dict[str, Any]
    """kind, location, array, zarr_format, shape, dtype and a fingerprint: of the metadata, and of
    names, sizes and times of the chunks, or of the digest that our own stores have."""
    url: str
    """Of the array."""
    spatial: Spatial = field(repr=False)
    digest: str = field(repr=False)
    """The array's metadata when it was opened."""

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (axes as stored), of the array's type, with the voxels from ``start`` on.

        Safe to call from several threads at once. Chunks that are not stored hold the array's
        fill value.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the array.
        DataError
            The array is gone, has changed since it was opened, is damaged or cannot be reached.
        """
        check_request("zarr", out, start, self.grid.shape, self.dtype)
        if not out.size:
            return
        array = self._opened()
        for piece in _pieces(start, out.shape, self.unit, out.itemsize):
            index: list[Any] = [0] * array.ndim
            where = piece[-len(self.spatial.places) :]
            for place, part in zip(self.spatial.places, where, strict=True):
                index[place] = part
            inside = tuple(
                slice(p.start - a, p.stop - a) for p, a in zip(piece, start, strict=True)
            )
            out[inside] = self._read(array, tuple(index))
        # To zarr a lost disk looks like chunks that were never stored.
        self._opened()

    def _read(self, array: Any, index: tuple[Any, ...]) -> NDArray[Any]:
        try:
            part: NDArray[Any]
            if is_remote(self.url):
                part = Remote(self.url).reading(lambda: array[index])
            else:
                part = array[index]
        except ThcError:
            raise
        except Exception as error:  # every codec and every file system has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"zarr: {self.url} cannot be read at {_text(index)}: {reason}"
            ) from error
        return part

    def _opened(self) -> Any:
        """Open the array anew: that is cheap, and safe in any thread and process."""
        try:
            array = open_node(self.url)
        except ThcError as error:
            raise DataError(f"{self.url} was there at opening, now: {error}") from error
        if not hasattr(array, "metadata") or digest_of(array) != self.digest:
            raise DataError(f"zarr: {self.url} has changed since it was opened; open it again")
        return array


def open_omezarr(location: str | os.PathLike[str], spacing_um: Um | None = None) -> ZarrArray:
    """Return a zarr array, or a level of an OME-Zarr image or label image, as a reader.

    An image gives its own voxel size and place, in whatever unit of length. An array knows them
    from the image it belongs to, or from coordinate arrays beside it, as xarray writes them. Axes
    other than z, y and x may have one element only.

    Parameters
    ----------
    location
        Path or URL (``s3://``, ``http://``, ...) of an image, of labels (``v.ome.zarr/labels/roi``)
        or of an array (``v.ome.zarr/0``), or of a group with one volume. ``#level=1`` behind an
        image means another level than the finest.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers; None takes what the metadata say.

    Returns
    -------
    ZarrArray
        Its axes may be stored in another order than z, y, x: see its ``axes``.

    Raises
    ------
    MissingError
        There is nothing, or no such level.
    RequestError
        No voxel size, coordinates that descend, several channels or times, several volumes in a
        group, values that are not integers or floats, or an address of an unknown kind.
    DataError
        The metadata are damaged, or the address cannot be reached.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import zarr
    >>> path = mkdtemp() + "/volume.zarr"
    >>> array = zarr.create_array(path, shape=(2, 3, 4), dtype="uint8", dimension_names=list("zyx"))
    >>> array[...] = np.arange(24).reshape(2, 3, 4)
    >>> reader = open_omezarr(path, (1.17, 1.17, 1.17))
    >>> out = np.empty((1, 1, 4), np.uint8)
    >>> reader.read_into(out, (1, 2, 0))
    >>> reader.grid.shape, reader.axes, reader.dtype.name, out.ravel().tolist()
    ((2, 3, 4), 'zyx', 'uint8', [20, 21, 22, 23])
    """
    text, level = split(location)
    url = full_url(text)
    found = find(url, level)
    array = found.array
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise RequestError(f"zarr: {found.url} holds {array.dtype}; allowed: integers and floats")
    spatial = spatial_of(found.lattice.names, array.shape, found.url)
    shape = spatial.pick(array.shape, 1)
    spacing, origin = grid_values(found.lattice, spatial, spacing_um, found.url)
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    provenance = {
        "kind": "zarr",
        "location": str(location),
        "array": found.url.removeprefix(url).strip("/"),
        "zarr_format": array.metadata.zarr_format,
        "shape": list(shape),
        "dtype": dtype.name,
        "fingerprint": fingerprint(found.documents),
    }
    return ZarrArray(
        Grid(shape, spacing, origin), spatial.axes, dtype, unit_of(array.chunks, spatial, shape),
        provenance, found.url, spatial, digest_of(array),
    )  # fmt: skip


def _text(index: tuple[Any, ...]) -> str:
    return ",".join(f"{i.start}:{i.stop}" if isinstance(i, slice) else str(i) for i in index)


def _pieces(start: Vox, shape: Vox, unit: Vox, itemsize: int) -> Iterator[tuple[slice, ...]]:
    """Yield parts of a box that cut no unit and are of moderate size, rows along the last axis.

    >>> [str(piece[:2]) for piece in _pieces((1, 0, 0), (4, 4, 4), (2, 2, 2), 2**19)]
    ['(slice(1, 4, None), slice(0, 4, None))', '(slice(4, 5, None), slice(0, 4, None))']
    """
    row = unit[0] * unit[1] * shape[2] * itemsize
    layer = unit[0] * shape[1] * shape[2] * itemsize
    steps = (
        unit[0] * max(1, PIECE_BYTES // layer),
        sys.maxsize if layer <= PIECE_BYTES else unit[1] * max(1, PIECE_BYTES // row),
    )
    cuts = []
    for a, n, step in zip(start, shape, steps, strict=False):
        inner = range((a // step + 1) * step, a + n, step)
        cuts.append([slice(*ends) for ends in zip([a, *inner], [*inner, a + n], strict=True)])
    last = slice(start[2], start[2] + shape[2])
    for z, y in product(*cuts):
        yield z, y, last
