"""An ``xarray.DataArray`` as a source: anything dask can make becomes a store."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.files import fingerprint
from thc_dask.grid import AXES, Extent, Grid, Um, Vox
from thc_dask.reader import graph_name
from thc_dask.units import MICROMETERS, micrometers


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

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the voxels come from: a source's own record, else what tells arrays apart.

        Of a dask array that is the name of its graph, of voxels in memory their checksums.
        """
        given = self.array.attrs.get("provenance")
        if not isinstance(given, dict):
            return {"kind": "array", "name": str(self.array.name), "token": self._token()}
        # Attributes outlive arithmetic; the graph's name does not.
        if self._graph().startswith(f"{graph_name(given)}-"):
            return given
        name = str(self.array.name)
        return {"kind": "array", "name": name, "token": self._token(), "made_from": given}

    def _graph(self) -> str:
        return "" if self.array.chunks is None else str(self.array.data.name)

    def _token(self) -> str:
        """Return what is the same for the same voxels, also in another process."""
        if self.array.chunks is not None:
            return self._graph()
        voxels = self.array.variable._data
        if not isinstance(voxels, np.ndarray):
            # Not worth reading it twice; what cannot be told apart is never taken for the same.
            return f"unknown-{secrets.token_hex(8)}"
        planes = [int(google_crc32c.value(plane.tobytes())) for plane in voxels]
        return fingerprint([voxels.dtype.str, list(voxels.shape), planes])

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        z, y, x = start
        box = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        part = self.array[box.slices]
        # The caller's threads are the parallelism; a scheduler inside each would multiply it.
        out[...] = part.data.compute(scheduler="synchronous") if part.chunks else part.values


def open_dataarray(array: Any, spacing_um: Um | None = None) -> ArraySource:
    """Return a reader of a ``(z, y, x)`` array with rising, evenly spaced coordinates.

    Coordinates are in micrometers, or in the unit of length that their ``attrs["units"]`` name.
    Where ``spacing_um`` is given, only the first of them counts: it is the origin.

    Raises
    ------
    RequestError
        Other dims, coordinates that descend or are in another unit; without ``spacing_um`` also
        uneven coordinates, or none.
    """
    if tuple(array.dims) != AXES:
        raise RequestError(f"array dims {tuple(array.dims)}: must be (z, y, x); use .transpose()")
    spacing, origin = [], []
    for i, axis in enumerate(AXES):
        step, first = None, 0.0
        if axis in array.coords and array.sizes[axis]:
            step, first = _lattice(array.coords[axis], axis, spacing_um is not None)
        if spacing_um is not None:
            step = spacing_um[i]
        if step is None:
            raise RequestError(f"array: no voxel size along {axis}; give --spacing 1.17um")
        spacing.append(step)
        origin.append(first)
    return ArraySource(array, Grid(array.shape, tuple(spacing), tuple(origin)))  # type: ignore[arg-type]


def _lattice(coordinate: Any, axis: str, uneven: bool) -> tuple[float | None, float]:
    """Return distance and first of the coordinates of an axis, in micrometers.

    The distance is None where there is but one; ``uneven`` ones may be allowed.
    """
    if coordinate.dtype.kind not in "iuf" or not np.isfinite(coordinate.values).all():
        raise RequestError(
            f"array coordinate {axis}: {coordinate.dtype} that are no finite numbers all; give "
            f"micrometers, or leave it out: .drop_vars({axis!r})"
        )
    values = np.asarray(coordinate.values, np.float64)
    unit = str(coordinate.attrs.get("units") or "micrometer")
    first = micrometers(float(values[0]), unit)
    if first is None:
        raise RequestError(
            f"array coordinate {axis}: its units {unit!r} are no known length; allowed: "
            f"{', '.join(MICROMETERS)}; without units they are micrometers; .drop_vars({axis!r}) "
            "leaves it out"
        )
    if values[-1] < values[0]:
        raise RequestError(
            f"array coordinate {axis} descends, from {values[0]:g} to {values[-1]:g}; turn the "
            f"array round: .sortby({axis!r})"
        )
    if len(values) < 2:
        return None, first
    step = float((values[-1] - values[0]) / (len(values) - 1))
    if not uneven and not np.allclose(np.diff(values), step, rtol=1e-6, atol=1e-6 * step):
        raise RequestError(f"array coordinate {axis}: must be evenly spaced")
    return micrometers(step, unit), first
