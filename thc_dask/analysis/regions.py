"""Region-wise distributions, fractions and divergences, from counts alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import __version__
from thc_dask.errors import RequestError
from thc_dask.grid import Box
from thc_dask.query import Answer, ask
from thc_dask.store.read import Store, store_of
from thc_dask.store.tables import Side

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store

SMOOTHING = 1e-6  # added to every count, as the paper's notebook did (survey of its Figure 2D)


def histogram(
    volume: Volume, by: str = "roi", box: Box | None = None, by_plane: bool = False
) -> xr.DataArray:
    """Return how many known voxels of each region have each intensity.

    Exact, from the count tables where they exist; where voxels must be read the array is lazy
    (dask) and nothing is computed before it is asked for.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Name of a label set.
    box
        Only voxels whose centre is in this half-open box, micrometers; clipped to the volume.
    by_plane
        Keep the planes apart: dims (plane, region, intensity).

    Returns
    -------
    xarray.DataArray
        int64 counts with dims (region, intensity), or (structure, intensity) for a label set of
        structures. Row ``none`` holds voxels known to be in no region. Coordinates ``code`` and
        ``color`` go with the rows.

    Raises
    ------
    MissingError
        There is no such label set; the message names those there are.
    RequestError
        The box is upside down or outside the volume.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> counts = histogram(volume, by="roi")
    >>> counts.dims, int(counts.sum()) == 32 * 64 * 96
    (('region', 'intensity'), True)
    """
    import xarray as xr

    store = store_of(volume)
    answer = ask(store, by, box=box, by_plane=by_plane)
    rows, columns = answer.table.rows, answer.table.columns
    dims: tuple[str, ...] = (rows.dim, columns.dim)
    coords = {**_names(rows, plain=True), columns.dim: np.arange(columns.n)}
    if by_plane:
        dims = ("plane", *dims)
        coords |= _planes(store, answer)
    return xr.DataArray(answer.data, coords, dims, "count", _attrs(store, answer, by=by))


def fractions(
    volume: Volume,
    of: str = "microstructure",
    by: str = "roi",
    box: Box | None = None,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Return which share of each region's known voxels each structure takes, with intervals.

    The denominator is every voxel of the region where both label sets are known, background
    included. Intervals come from resampling planes (docs/decisions/0005).

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    of
        Label set of structures.
    by
        Label set of regions.
    box
        Only voxels whose centre is in this half-open box, micrometers.
    confidence
        Of the intervals, between 0 and 1.
    n_resamples
        Bootstrap samples.
    seed
        Of the bootstrap; the same seed gives the same interval.

    Returns
    -------
    xarray.Dataset
        ``fraction``, ``low``, ``high`` (float64) and ``count`` (int64 voxels) with dims (region,
        structure); ``n_vox`` (region) is the denominator, ``n_planes`` (region) the number of
        planes that hold known voxels. Regions without any have NaN fractions; with one plane
        there is no interval (NaN).

    Raises
    ------
    MissingError
        There is no such label set.
    RequestError
        Both label sets are of one kind, or the box is wrong.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> source = "phantom:32,64,96?channel=microstructure"
    >>> volume = labels(source, volume, "microstructure", "prasad2020-microstructure")
    >>> list(fractions(volume).structure.values)
    ['background', 'vessel', 'cell', 'axon']
    """
    import xarray as xr

    from thc_dask.kernels import statistics

    store = store_of(volume)
    kinds = {name: store.label_set(name).scheme.kind for name in (of, by)}
    if kinds[of] == kinds[by]:
        raise RequestError(
            f"fractions of {of!r} by {by!r}: both are label sets of {kinds[of]}s; give --of a set "
            "of structures and --by a set of regions"
        )
    answer = ask(store, by, of, box, by_plane=True)
    rows, columns = answer.table.rows, answer.table.columns
    shape = (rows.n, columns.n)

    def interval(planes: Any) -> Any:
        return np.stack(statistics.bootstrap_fractions(planes, n_resamples, confidence, seed))

    bounds = _apply(interval, answer.data, (2, *shape), np.float64)
    dims = (rows.dim, columns.dim)
    data = {
        "fraction": (dims, _apply(statistics.fractions, answer.data, shape, np.float64)),
        "low": (dims, bounds[0]),
        "high": (dims, bounds[1]),
        "count": (dims, answer.data.sum(axis=0)),
        "n_vox": (rows.dim, answer.data.sum(axis=(0, 2))),
        "n_planes": (rows.dim, (answer.data.sum(axis=2) > 0).sum(axis=0)),
    }
    attrs = _attrs(store, answer, of=of, by=by) | {
        "denominator": "all known voxels of the region, background included",
        "interval": f"{confidence:.0%} bootstrap over planes, BCa where defined",
        "n_resamples": n_resamples,
        "seed": seed,
    }
    return xr.Dataset(data, {**_names(rows), **_names(columns)}, attrs)


def compare(
    volume: Volume, by: str = "roi", box: Box | None = None, *, smoothing: float = SMOOTHING
) -> xr.Dataset:
    """Return how far apart the intensity distributions of the regions are.

    ``kl`` is the Kullback-Leibler divergence of row from column, sum p ln(p / q), with
    ``smoothing`` added to every count first as the paper did for its Figure 2D; it depends on
    the direction. ``js`` is the Jensen-Shannon divergence: symmetric, at most ln 2, no
    smoothing (Lin 1991, IEEE Trans. Inf. Theory 37:145).

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Label set of regions.
    box
        Only voxels whose centre is in this half-open box, micrometers.
    smoothing
        Added to every count before ``kl``.

    Returns
    -------
    xarray.Dataset
        ``kl`` and ``js`` in nats with dims (region, other), ``n_vox`` (region). Code 0 is left
        out. A region without known voxels has NaN.

    Raises
    ------
    MissingError, RequestError
        As ``histogram`` does.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> float(compare(volume)["js"].sel(region="CTX", other="CTX"))
    0.0
    """
    import xarray as xr

    from thc_dask.kernels import statistics

    if not smoothing >= 0:
        raise RequestError(f"smoothing {smoothing}: must be 0 or more")
    counts = histogram(volume, by, box)
    dim = str(counts.dims[0])
    counts = counts.isel({dim: counts["code"].values != 0})
    n = counts.sizes[dim]
    names = counts[dim].values
    kl = _apply(lambda c: statistics.kl_divergence(c, smoothing), counts.data, (n, n), np.float64)
    js = _apply(statistics.jensen_shannon, counts.data, (n, n), np.float64)
    coords = {
        dim: names, "other": names, f"{dim}_color": (dim, counts["color"].values),
        f"{dim}_code": (dim, counts["code"].values),
    }  # fmt: skip
    attrs = counts.attrs | {"smoothing": smoothing, "units": "nats", "kl": "row from column"}
    dims = (dim, "other")
    data = {"kl": (dims, kl), "js": (dims, js), "n_vox": (dim, counts.sum("intensity").data)}
    return xr.Dataset(data, coords, attrs)


def _apply(function: Callable[[Any], Any], data: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Call a function on counts now, or once they are computed."""
    if isinstance(data, np.ndarray):
        return function(data)
    import dask
    import dask.array as da

    return da.from_delayed(dask.delayed(function)(data), shape, dtype)


def _names(side: Side, plain: bool = False) -> dict[str, Any]:
    """Return coordinates of a side: names, codes, colours; ``plain`` leaves the dim off those."""
    assert side.scheme is not None
    dim, labels = side.dim, side.scheme.labels
    prefix = "" if plain else f"{dim}_"
    return {
        dim: np.array([x.name for x in labels], object),
        f"{prefix}code": (dim, side.scheme.codes),
        f"{prefix}color": (dim, np.array([x.color for x in labels], object)),
    }


def _planes(store: Store, answer: Answer) -> dict[str, Any]:
    z = store.grid.coordinates(0)[answer.planes]
    return {"plane": answer.planes, "z": ("plane", z, {"units": "micrometer"})}


def _attrs(store: Store, answer: Answer, **more: Any) -> dict[str, Any]:
    """Return where numbers come from."""
    grid, extent = store.grid, answer.extent
    ends = [
        f"{grid.origin_um[i] + grid.spacing_um[i] * (a - 0.5):g}:"
        f"{grid.origin_um[i] + grid.spacing_um[i] * (b - 0.5):g}"
        for i, (a, b) in enumerate(zip(extent.start, extent.stop, strict=True))
    ]
    return {
        "store": store.url,
        "level": 0,
        "software": f"thc_dask {__version__}",
        "box_vox": str(extent),
        "box_um": ",".join(ends),
        "answered_from": answer.answered_from,
        "digests": answer.table.digests,
        **more,
    }
