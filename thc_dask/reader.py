"""What a source must offer, and how it becomes a lazy ``xarray.DataArray``.

A reader is a description plus one method that fills memory the caller owns. The writer
streams through it with buffers that it reuses; everyone else sees the lazy array.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import AXES, Extent, Grid, Vox
from thc_dask.retry import persist

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
    fill(reader, out, extent.start)
    return out


def fill(reader: Blocks, out: NDArray[Any], start: Vox) -> NDArray[np.int64] | None:
    """Fill ``out`` as ``reader.read_into`` does, again where that failed for a moment only."""
    stop = tuple(a + n for a, n in zip(start, out.shape, strict=True))
    what = f"voxels {Extent(start, stop)}"
    return persist(lambda: reader.read_into(out, start), what)


PIECE_BYTES = 2**22  # what is worth reading at a time, and stays in a cache


def stored_dtype(reader: Reader) -> np.dtype[Any]:
    """Return the type of a voxel where the source keeps it, before any view of it."""
    inner: Any = reader
    while hasattr(getattr(inner, "source", None), "read_into"):
        inner = inner.source
    dtype: np.dtype[Any] = np.dtype(inner.dtype)
    return dtype


def unit_bytes(reader: Reader) -> int:
    """Return the bytes of a unit's voxels, decoded; 0 where that is little."""
    units = zip(reader.unit, reader.grid.shape, strict=True)
    n_bytes = math.prod(min(u, n) for u, n in units) * stored_dtype(reader).itemsize
    return n_bytes if n_bytes > PIECE_BYTES else 0


class _Buffer(threading.local):
    """Memory of each thread that is used again: fresh memory is slow."""

    def __init__(self) -> None:
        self.raw = np.empty(0, np.uint8)

    def array(self, shape: Vox, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array with the content of before."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if len(self.raw) < n_bytes:
            self.raw = np.empty(n_bytes, np.uint8)
        return self.raw[:n_bytes].view(dtype).reshape(shape)


_buffer = _Buffer()


def pieces(reader: Blocks, unit: Vox, extent: Extent) -> Iterator[tuple[Extent, NDArray[Any]]]:
    """Yield a box piece by piece with its voxels, which hold until the next is asked for.

    Pieces are some megabytes and cut no unit that the box itself does not cut.
    """
    sizes = list(unit)
    for axis in (2, 1, 0):  # rows are what files hold
        others = math.prod(sizes) // sizes[axis]
        fit = PIECE_BYTES // (others * reader.dtype.itemsize * unit[axis])
        sizes[axis] = unit[axis] * max(1, min(fit, -(-extent.shape[axis] // unit[axis])))
    cuts = (
        pairwise([a, *range(a // size * size + size, b, size), b])
        for a, b, size in zip(extent.start, extent.stop, sizes, strict=True)
    )
    for (z0, z1), (y0, y1), (x0, x1) in product(*cuts):
        box = Extent((z0, y0, x0), (z1, y1, x1))
        voxels = _buffer.array(box.shape, reader.dtype)
        fill(reader, voxels, box.start)
        yield box, voxels


def graph_name(provenance: dict[str, Any]) -> str:
    """Return how the dask graph of a source's voxels is named, if nothing was done to them.

    >>> graph_name({"kind": "npy"})
    'source-e657119a85caf6b3'
    """
    text = json.dumps(provenance, sort_keys=True, default=str)
    return f"source-{blake2b(text.encode(), digest_size=8).hexdigest()}"


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
        block, chunks=chunks, dtype=reader.dtype, meta=np.empty((0, 0, 0), reader.dtype),
        name=f"{graph_name(reader.provenance)}-{'x'.join(map(str, sizes))}",
    )  # fmt: skip
    coords = {
        axis: (axis, grid.coordinates(i), {"units": "micrometer"}) for i, axis in enumerate(AXES)
    }
    return xr.DataArray(
        array, coords=coords, dims=AXES, name=name, attrs={"provenance": reader.provenance}
    )
