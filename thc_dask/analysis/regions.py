"""Region-wise distributions, what they come to, and fractions, from counts alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Box
from thc_dask.interpolate import annotated
from thc_dask.query import ask
from thc_dask.results import alignment, apply, attributes, drawing, names_of, taken
from thc_dask.sampling import DENOMINATORS, Cubes, block_of, check_kinds, notes, sample
from thc_dask.store.read import Store, store_of

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store


def histogram(
    volume: Volume,
    by: str = "roi",
    box: Box | None = None,
    by_plane: bool = False,
    aligned: bool = False,
) -> xr.DataArray:
    """Return how many known voxels of each region have each intensity.

    Exact, from the count tables where they exist; where voxels must be read the array is lazy
    (dask) and nothing is computed before it is asked for.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Name of a label set; ``image`` counts all voxels, as one region ``all``.
    box
        Only voxels whose centre is in this half-open box, micrometers; clipped to the volume.
    by_plane
        Keep the planes apart: dims (plane, region, intensity). The coordinate ``annotated`` is
        False for a plane whose labels are interpolated.
    aligned
        Move the faces of the box to the nearest faces of chunks, so that tables answer it all; the
        attributes ``box_um`` and ``aligned`` say what was counted.

    Returns
    -------
    xarray.DataArray
        int64 counts with dims (region, intensity), or (structure, intensity) for a label set of
        structures. Row ``none`` holds voxels known to be in no region. Coordinates ``code`` and
        ``color`` go with the rows. The attribute ``no_known_voxels`` names rows without any,
        where tables answered; a lazy answer has it once ``thc histogram`` writes it.

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
    answer = ask(store, by, box=box, by_plane=by_plane, aligned=aligned)
    rows, columns = answer.table.rows, answer.table.columns
    dims: tuple[str, ...] = (rows.dim, columns.dim)
    coords = {**names_of(rows, plain=True), columns.dim: np.arange(columns.n)}
    if by_plane:
        dims = ("plane", *dims)
        z = store.grid.coordinates(0)[answer.planes]
        assert answer.planes is not None
        seen = annotated(store, [rows.name, columns.name], answer.planes)
        coords |= {
            "plane": answer.planes,
            "z": ("plane", z, {"units": "micrometer"}),
            "annotated": ("plane", seen),
        }
    attrs = attributes(store, answer.table, answer.extent, answer.answered_from, by=by)
    attrs |= alignment(store, answer.asked)
    counts = xr.DataArray(answer.data, coords, dims, "count", attrs)
    return counts if counts.chunks else counts.assign_attrs(emptiness(counts))


def emptiness(counts: xr.DataArray) -> dict[str, list[str]]:
    """Return as an attribute which regions have no known voxels; nothing where all have some."""
    dim = str(counts.dims[-2])
    total = counts.sum([d for d in counts.dims if d != dim]).values
    empty = [str(name) for name in counts[dim].values[total == 0]]
    return {"no_known_voxels": empty} if empty else {}


def summary(
    volume: Volume,
    by: str = "roi",
    box: Box | None = None,
    *,
    denominator: str = "known",
    cubes: Cubes = None,
    block: int | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Return mean, spread, percentiles and entropy of each region's intensities, with intervals.

    Values are exact for the voxels that were counted. Intervals come from resampling planes, as
    those of ``fractions`` do.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Name of a label set.
    box
        Only voxels whose centre is in this half-open box, micrometers.
    denominator
        ``known``: all known voxels; ``unclipped``: those with an intensity of 1 to 254.
    cubes, block, confidence, n_resamples, seed
        As ``fractions`` takes them.

    Returns
    -------
    xarray.Dataset
        By region: ``mean``, ``sd`` (divides by n), ``p5 p25 p50 p75 p95`` (the smallest intensity
        that so many percent do not exceed), all in grey levels, ``entropy_bits``, each with
        ``_low`` and ``_high``; ``n_vox``; ``n_planes``, with intervals only; ``note`` says why a
        value or an interval is missing (NaN).

    Raises
    ------
    MissingError
        There is no such label set; the message names those there are.
    RequestError
        The box, the denominator or an option of the bootstrap is wrong.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> found = summary(volume, n_resamples=100).sel(region="CTX")
    >>> bool(found["mean_low"] <= found["mean"] <= found["mean_high"])
    True
    """
    import xarray as xr

    from thc_dask.kernels import statistics

    store = store_of(volume)
    how = statistics.Resampling(n_resamples, confidence, seed)
    drawn = how.n_resamples > 0
    found = sample(store, by, box=box, denominator=denominator, cubes=cubes, by_plane=drawn)
    units = found.units(block_of(store, [by], block))
    rows, names = found.table.rows, tuple(statistics.UNITS)

    def values(planes: NDArray[np.int64]) -> NDArray[np.float64]:
        return statistics.bootstrap_summary(units.pool(planes), units.cube, how)

    numbers = apply(values, found.data, (3, len(names), rows.n), np.float64)
    data = {
        f"{name}{end}": (rows.dim, numbers[e, i])
        for i, name in enumerate(names)
        for e, end in enumerate(("", "_low", "_high"))
    }
    data |= _sizes(found.data, units, denominator, rows.dim, drawn)
    attrs = attributes(store, found.table, found.extent, found.answered_from, by=by)
    attrs |= {"denominator": DENOMINATORS[denominator], "measures": statistics.UNITS}
    return xr.Dataset(data, names_of(rows), attrs | drawing(units.drawn, how))


def _sizes(data: Any, units: Any, denominator: str, dim: str, drawn: bool) -> dict[str, Any]:
    """Return how many voxels each region has, and planes if they are drawn, and a note on both."""

    def note(planes: NDArray[np.int64]) -> NDArray[Any]:
        n = units.pool(planes).sum(axis=2)
        n_units = (n > 0).sum(axis=0) if drawn else None
        return notes(n.sum(axis=0), n_units, denominator, units.block)

    planes = {"n_planes": (dim, (data.sum(axis=2) > 0).sum(axis=0))} if drawn else {}
    return {
        "n_vox": (dim, data.sum(axis=(0, 2))),
        **planes,
        "note": (dim, apply(note, data, (data.shape[1],), object)),
    }


def fractions(
    volume: Volume,
    of: str = "microstructure",
    by: str = "roi",
    box: Box | None = None,
    *,
    denominator: str = "known",
    cubes: Cubes = None,
    block: int | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    aligned: bool = False,
) -> xr.Dataset:
    """Return which share of each region each structure takes, with intervals.

    The denominator is every voxel of the region where both label sets are known, background
    included, unless another one is asked for. Intervals come from resampling planes
    (docs/statistics.md).

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
    denominator
        ``known``; ``foreground``: voxels in any structure, so that the shares of the structures
        sum to 1 and background is left out; ``unclipped``: known voxels with an intensity of 1 to
        254, which are counted from voxels.
    cubes
        Draw cubes, and planes within each: boxes of voxels (``Extent``) inside the volume that do
        not overlap, and nothing outside them counts; or ``auto``, the boxes in which the labels
        are known. Counted from voxels.
    block
        So many adjacent planes are drawn together: where every plane is labelled, neighbours are
        alike. None is 1; of an interpolated label set as many as lie between annotated planes.
    confidence
        Of the intervals, between 0 and 1.
    n_resamples
        Bootstrap samples, at least 9; 0 makes no intervals, and planes need not be kept apart:
        then the table of chunks answers a box, but for the voxels of chunks that it cuts.
    seed
        Of the bootstrap; the same seed gives the same interval.
    aligned
        As ``histogram`` takes it.

    Returns
    -------
    xarray.Dataset
        ``fraction``, ``low``, ``high`` (float64) and ``count`` (int64 voxels) with dims (region,
        structure); ``n_vox`` (region) is the denominator, ``n_planes`` (region), with intervals
        only, the number of planes that hold such voxels. Regions without any have NaN fractions;
        with one plane there is no interval (NaN); ``note`` (region, structure) says so.

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
    check_kinds(store, of, by)
    how = statistics.Resampling(n_resamples, confidence, seed)
    drawn = how.n_resamples > 0
    found = sample(store, by, of, box, denominator, cubes, by_plane=drawn, aligned=aligned)
    units = found.units(block_of(store, [by, of], block))
    rows, columns = found.table.rows, found.table.columns
    shape = (rows.n, int(found.columns.sum()))

    def interval(planes: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.stack(statistics.bootstrap_fractions(
            units.pool(planes), how.n_resamples, how.confidence, how.seed, units.cube
        ))  # fmt: skip

    bounds = apply(interval, found.data, (2, *shape), np.float64)
    dims = (rows.dim, columns.dim)
    sizes = _sizes(found.data, units, denominator, rows.dim, drawn)
    note = sizes.pop("note")[1]
    data = {
        "fraction": (dims, apply(statistics.fractions, found.data, shape, np.float64)),
        "low": (dims, bounds[0]),
        "high": (dims, bounds[1]),
        "count": (dims, found.data.sum(axis=0)),
        "note": (dims, apply(lambda n: np.repeat(n[:, None], shape[1], 1), note, shape, object)),
        **sizes,
    }
    attrs = attributes(store, found.table, found.extent, found.answered_from, of=of, by=by)
    attrs |= alignment(store, found.asked)
    text = DENOMINATORS[denominator] + (", background included" if denominator == "known" else "")
    coords = {**names_of(rows), **taken(names_of(columns), columns.dim, found.columns)}
    return xr.Dataset(data, coords, attrs | {"denominator": text} | drawing(units.drawn, how))
