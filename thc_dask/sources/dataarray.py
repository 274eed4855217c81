"""An ``xarray.DataArray`` as a source: anything dask can make becomes a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import AXES, Extent, Grid, Um, Vox


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Voxels of an array, computed block by block."""

    array: Any
    """(z, y, x) ``xarray.DataArray``."""
    grid: Grid

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def unit(self) -> Vox:
        if self.array.chunks is None:
            return (1, 1, 1)
        z, y, x = (max(sizes) for sizes in self.array.chunks)
        return z, y, x

    @property
    def provenance(self) -> dict[str, Any]:
        given = self.array.attrs.get("provenance")
        return given if isinstance(given, dict) else {"kind": "array", "name": str(self.array.name)}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        z, y, x = start
        box = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        part = self.array[box.slices]
        # The caller's threads are the parallelism; a scheduler inside each would multiply it.
        out[...] = part.data.compute(scheduler="synchronous") if part.chunks else part.values


def open_dataarray(array: Any, spacing_um: Um | None = None) -> ArraySource:
    """Return a reader of a ``(z, y, x)`` array with evenly spaced coordinates in micrometers.

    Raises
    ------
    RequestError
        Other dims, uneven coordinates, or no coordinates and no ``spacing_um``.
    """
    if tuple(array.dims) != AXES:
        raise RequestError(f"array dims {tuple(array.dims)}: must be (z, y, x); use .transpose()")
    spacing, origin = [], []
    for i, axis in enumerate(AXES):
        step = None if spacing_um is None else spacing_um[i]
        first = 0.0
        if axis in array.coords:
            values = np.asarray(array.coords[axis].values, np.float64)
            first = float(values[0])
            if step is None and len(values) > 1:
                step = float((values[-1] - values[0]) / (len(values) - 1))
                if not np.allclose(np.diff(values), step, rtol=1e-6):
                    raise RequestError(f"array coordinate {axis}: must be evenly spaced, in um")
        if step is None:
            raise RequestError(f"array: no voxel size along {axis}; give --spacing 1.17um")
        spacing.append(step)
        origin.append(first)
    return ArraySource(array, Grid(array.shape, tuple(spacing), tuple(origin)))  # type: ignore[arg-type]
