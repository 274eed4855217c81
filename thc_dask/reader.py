"""What a source must offer, and how it becomes a lazy ``xarray.DataArray``.

A reader is a description plus one method that fills memory the caller owns. The writer
streams through it with buffers that it reuses; everyone else sees the lazy array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import AXES, Extent, Grid, Vox

if TYPE_CHECKING:
    import xarray as xr


class Blocks(Protocol):
    """Anything whose voxels can be had block by block."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""

    def read_into(self, out: NDArray[Any], start: Vox) -> NDArray[np.int64] | None:
        """Fill ``out`` (z, y, x) with the voxels from ``start`` on; all of them exist.

        May return counts to be added up over the volume: of voxels that were clipped, say.
        """


class Reader(Blocks, Protocol):
    """A source: voxels that several threads may read at once, and that can be pickled."""

    @property
    def grid(self) -> Grid:
        """Shape in voxels, spacing and origin in micrometers."""

    @property
    def unit(self) -> Vox:
        """The smallest aligned box (z, y, x) a read decodes: reading less costs as much."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What the voxels come from, ready for JSON; equal provenance means equal voxels."""


def read(reader: Blocks, extent: Extent) -> NDArray[Any]:
    """Return the voxels of ``extent`` as a new (z, y, x) array."""
    out = np.empty(extent.shape, reader.dtype)
    reader.read_into(out, extent.start)
    return out


def as_dataarray(reader: Reader, name: str = "image", chunk: Vox = (64, 512, 512)) -> xr.DataArray:
    """Return the reader as a lazy ``(z, y, x)`` array with coordinates in micrometers.

    Nothing is read until the array is computed. The chunks are whole units of the reader, so
    that no block is decoded twice.
    """
    import dask.array as da
    import xarray as xr

    grid = reader.grid
    sizes = [
        min(n, max(u, c // u * u)) for n, u, c in zip(grid.shape, reader.unit, chunk, strict=True)
    ]
    chunks = da.core.normalize_chunks(tuple(sizes), grid.shape)

    def block(block_info: Any = None) -> NDArray[Any]:
        (z0, z1), (y0, y1), (x0, x1) = block_info[None]["array-location"]
        return read(reader, Extent((z0, y0, x0), (z1, y1, x1)))

    array = da.map_blocks(
        block, chunks=chunks, dtype=reader.dtype, meta=np.empty((0, 0, 0), reader.dtype)
    )
    coords = {
        axis: (axis, grid.coordinates(i), {"units": "micrometer"}) for i, axis in enumerate(AXES)
    }
    return xr.DataArray(
        array, coords=coords, dims=AXES, name=name, attrs={"provenance": reader.provenance}
    )
