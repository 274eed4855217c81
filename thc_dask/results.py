"""What every result carries: names, colours, where it comes from; and when it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.grid import Extent
from thc_dask.interpolate import origins
from thc_dask.store.read import Store
from thc_dask.store.tables import Side, Table


def apply(function: Callable[[Any], Any], data: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Call a function on counts now, or once they are computed."""
    if isinstance(data, np.ndarray):
        return function(data)
    import dask
    import dask.array as da

    return da.from_delayed(dask.delayed(function)(_shared(data)), shape, dtype)


def apply_all(
    function: Callable[[Any], dict[str, Any]], data: Any, shapes: dict[str, tuple[int, ...]],
    texts: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Call a function that gives several arrays of these shapes, now or once data are computed.

    All are float64, but for texts, which are objects.
    """
    if isinstance(data, np.ndarray):
        return function(data)
    import dask
    import dask.array as da

    found = dask.delayed(function)(_shared(data))
    return {
        name: da.from_delayed(found[name], shape, object if name in texts else np.float64)
        for name, shape in shapes.items()
    }


def _shared(data: Any) -> Any:
    """Return lazy counts as one object under one name, for whatever is made of them.

    Given as an array they would get a name anew each time, and be counted for each variable.
    """
    return data.rechunk(data.shape).to_delayed(optimize_graph=False).item()


def names_of(side: Side, plain: bool = False) -> dict[str, Any]:
    """Return coordinates of a side: names, codes, colours; ``plain`` leaves the dim off those."""
    assert side.scheme is not None
    dim, labels = side.dim, side.scheme.labels
    prefix = "" if plain else f"{dim}_"
    return {
        dim: np.array([x.name for x in labels], object),
        f"{prefix}code": (dim, side.scheme.codes),
        f"{prefix}color": (dim, np.array([x.color for x in labels], object)),
    }


def taken(coords: dict[str, Any], dim: str, keep: NDArray[np.bool_]) -> dict[str, Any]:
    """Return coordinates of ``names_of`` for the rows or columns that are kept."""
    return {
        name: values[keep] if name == dim else (dim, values[1][keep])
        for name, values in coords.items()
    }


def attributes(
    store: Store, table: Table, extent: Extent, answered_from: str, **more: Any
) -> dict[str, Any]:
    """Return where numbers come from."""
    made = origins(store, [table.rows.name, table.columns.name])
    return {
        "store": store.url,
        "level": 0,
        "software": f"thc_dask {__version__}",
        "box_vox": str(extent),
        "box_um": ",".join(
            f"{low:g}:{high:g}" for low, high in (faces(store, extent, axis) for axis in range(3))
        ),
        "answered_from": answered_from,
        "digests": table.digests,
        **({"interpolated": made} if made else {}),
        **more,
    }


def alignment(store: Store, asked: Extent | None) -> dict[str, str]:
    """Return what is said of a box whose faces moved to faces of chunks; nothing of any other."""
    if asked is None:
        return {}
    um = ",".join(f"{a:g}:{b:g}" for a, b in (faces(store, asked, axis) for axis in range(3)))
    return {
        "aligned": f"asked for {um} um; the faces moved to the nearest faces of chunks, and what "
        "is counted is box_um"
    }


def faces(store: Store, extent: Extent, axis: int) -> tuple[float, float]:
    """Return where a box of voxels begins and ends along an axis, in micrometers."""
    origin, spacing = store.grid.origin_um[axis], store.grid.spacing_um[axis]
    low, high = (origin + spacing * (n - 0.5) for n in (extent.start[axis], extent.stop[axis]))
    return low, high


def drawing(units: str, how: Any, made: str = "BCa where defined") -> dict[str, Any]:
    """Return how intervals over ``units`` were made: ``how`` is a ``Resampling``."""
    return {
        "interval": f"{how.confidence:.0%} bootstrap over {units}, {made}"
        if how.n_resamples
        else "none",
        "speaks_of": "other planes of this specimen, not other specimens",
        "n_resamples": how.n_resamples,
        "seed": how.seed,
    }
