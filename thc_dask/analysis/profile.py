"""Profiles along an axis: what regions come to at each depth, as in the layers of cortex."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.cells import Bins, cell_counts, only_axis
from thc_dask.errors import RequestError
from thc_dask.grid import AXES, Box, Extent
from thc_dask.pairs import IMAGE, Pair, describe, known_planes, make_pair
from thc_dask.results import apply_all, attributes, drawing, faces, names_of, taken
from thc_dask.sampling import (
    DENOMINATORS,
    block_of,
    check_block,
    check_denominator,
    check_kinds,
    is_masked,
    notes,
    restricted,
    sample,
)
from thc_dask.store.read import Store, store_of

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store

MOST_UNITS = 64  # of a bin: tables of more would not fit for a volume that is labelled throughout


def profile(
    volume: Volume,
    along: str = "y",
    by: str = "roi",
    of: str | None = None,
    box: Box | None = None,
    *,
    step_um: float = 50.0,
    denominator: str = "known",
    block: int | None = None,
    confidence: float = 0.95,
    n_resamples: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """Return what regions come to in bins along an axis: intensities, or what they are made of.

    Exact. Along z it follows from the tables; along y and x voxels are counted, each once, lazily.
    Intervals draw planes: those of the bin along z, else all planes, with what lies in the bin.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    along
        ``z``, ``y`` or ``x``.
    by
        Label set of regions.
    of
        Label set of structures: their fractions at each depth. None gives intensities.
    box
        Only voxels whose centre is in this half-open box, micrometers; bins begin at its low face.
    step_um
        Thickness of a bin; a voxel is in the bin that holds its centre.
    denominator
        ``known`` or ``unclipped``; of structures ``foreground`` too, as ``fractions`` takes it.
    block, confidence, n_resamples, seed
        As ``fractions`` takes them. Along y and x more than 64 planes are drawn in blocks.

    Returns
    -------
    xarray.Dataset
        With dims (along, region) what ``summary`` gives, or with dims (along, region, structure)
        what ``fractions`` gives. The coordinate ``along`` is the middle of each bin, micrometers,
        beside ``start_um`` and ``stop_um``. A region that does not reach into a bin has NaN there,
        and ``note`` says so.

    Raises
    ------
    MissingError
        There is no such label set; the message names those there are.
    RequestError
        There is no such axis, the step is thinner than a voxel, or another option is wrong.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> found = profile(volume, along="x", step_um=40, n_resamples=0)
    >>> found["mean"].dims, found["x"].values.round(3).tolist()
    (('x', 'region'), [19.415, 59.415, 95.575])
    """
    import xarray as xr

    from thc_dask.kernels import statistics

    store = store_of(volume)
    how = statistics.Resampling(n_resamples, confidence, seed)
    if along not in AXES:
        raise RequestError(f"along {along!r}: give z, y or x")
    if of is not None:
        check_kinds(store, of, by)
    check_denominator(denominator, of or IMAGE)
    extent = store.grid.extent_of(box)
    bins = _bins(store, extent, AXES.index(along), step_um)
    block = block_of(store, [by, of or IMAGE], block)
    found = _counted(store, by, of or IMAGE, box, along, bins, denominator, block)
    table, keep = found.table, found.keep
    rows, columns = table.rows, table.columns
    shape = (len(bins), rows.n) + ((int(keep.sum()),) if of is not None else ())
    dims = (along, rows.dim, columns.dim)[: len(shape)]
    names = ("fraction", "low", "high", "count") if of is not None else tuple(
        f"{name}{end}" for name in statistics.UNITS for end in ("", "_low", "_high")
    )  # fmt: skip

    def numbers(counts: NDArray[np.int64]) -> dict[str, Any]:
        tables = found.split(counts)
        n = np.array([[t[:, r].sum() for r in range(rows.n)] for t in tables])
        n_units = np.array(
            [[(t[:, r].sum(axis=1) > 0).sum() for r in range(rows.n)] for t in tables]
        )
        made = _fractions(tables, how) if of is not None else _summaries(tables, how)
        note = notes(n, n_units, denominator, found.block)
        if of is not None:
            note = np.repeat(note[..., None], shape[2], axis=2)
        return made | {"n_vox": n.astype(np.float64), "note": note}

    sizes = dict.fromkeys(names, shape) | {"n_vox": shape[:2], "note": shape}
    made = apply_all(numbers, found.data, sizes, ("note",))
    data: dict[str, Any] = {name: (dims[: len(size)], made[name]) for name, size in sizes.items()}
    data["n_vox"] = (dims[:2], made["n_vox"].astype(np.int64))
    if of is not None:
        data["count"] = (dims, made["count"].astype(np.int64))
    attrs = attributes(store, table, extent, found.answered_from, by=by, along=along)
    attrs |= {"step_um": step_um, "denominator": DENOMINATORS[denominator]}
    attrs |= {"of": of} if of is not None else {"measures": statistics.UNITS}
    coords = _places(store, extent, AXES.index(along), step_um, len(bins)) | names_of(rows)
    if of is not None:
        coords |= taken(names_of(columns), columns.dim, keep)
    return xr.Dataset(data, coords, attrs | drawing(found.drawn, how))


@dataclass(frozen=True)
class _Counted:
    """Counts that ``split`` makes one table (unit, row, column) for each bin of."""

    table: Any
    data: Any
    split: Callable[[NDArray[np.int64]], list[NDArray[np.int64]]]
    keep: NDArray[np.bool_]
    block: int
    answered_from: str

    @property
    def drawn(self) -> str:
        return "planes" if self.block == 1 else f"blocks of {self.block} planes"


def _bins(store: Store, extent: Extent, axis: int, step_um: float) -> Bins:
    """Return the voxels of each bin along an axis."""
    spacing = store.grid.spacing_um[axis]
    if not (np.isfinite(step_um) and step_um >= spacing):
        raise RequestError(
            f"step {step_um:g} um: along {AXES[axis]} a voxel is {spacing:g} um; give that or more"
        )
    low, _ = faces(store, extent, axis)
    centres = store.grid.coordinates(axis)[extent.start[axis] : extent.stop[axis]]
    edges = low + step_um * np.arange(1, len(centres) + 1)
    inner = [extent.start[axis] + int(n) for n in np.searchsorted(centres, edges, "left")]
    cuts = [extent.start[axis], *sorted({n for n in inner if n < extent.stop[axis]})]
    return tuple(itertools.pairwise([*cuts, extent.stop[axis]]))


def _places(store: Store, extent: Extent, axis: int, step_um: float, n: int) -> dict[str, Any]:
    low, high = faces(store, extent, axis)
    start = low + step_um * np.arange(n)
    stop = np.minimum(start + step_um, high)
    um = {"units": "micrometer"}
    name = AXES[axis]
    return {
        name: (name, (start + stop) / 2, um), "start_um": (name, start, um),
        "stop_um": (name, stop, um),
    }  # fmt: skip


def _counted(
    store: Store, by: str, columns: str, box: Box | None, along: str, bins: Bins,
    denominator: str, block: int,
) -> _Counted:  # fmt: skip
    if along != "z":
        return _across(store, make_pair(store, by, columns), box, along, bins, denominator, block)
    found = sample(store, by, columns, box, denominator)
    found.units(block)  # which says what is wrong with a block
    places = [np.flatnonzero((found.planes >= a) & (found.planes < b)) for a, b in bins]

    def split(counts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [_pooled(counts[i], found.planes[i] // block) for i in places]

    return _Counted(found.table, found.data, split, found.columns, block, found.answered_from)


def _pooled(counts: NDArray[np.int64], name: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(counts):
        return counts
    begins = np.flatnonzero(np.concatenate([[True], name[1:] != name[:-1]]))
    found: NDArray[np.int64] = np.add.reduceat(counts, begins, axis=0)
    return found


def _across(
    store: Store, pair: Pair, box: Box | None, along: str, bins: Bins, denominator: str, block: int
) -> _Counted:
    check_block(block)
    extent = store.grid.extent_of(box)
    planes = known_planes(pair, extent)
    while len(np.unique(planes // block)) > MOST_UNITS:
        block += 1
    units = [planes[planes // block == name] for name in np.unique(planes // block)]
    slabs = tuple((int(p[0]), int(p[-1]) + 1) for p in units)
    cells = only_axis(AXES.index(along), bins, extent, slabs)
    counts = cell_counts(store, pair, cells, extent, is_masked(denominator, pair.columns.name))
    flat = counts[:, :, 0] if along == "y" else counts[:, 0]
    table = describe(store, pair)
    data, keep = restricted(flat, table.columns, denominator)

    def split(found: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return list(np.moveaxis(found, 1, 0))

    why = f"voxels: tables do not keep rows along {along} apart"
    return _Counted(table, data, split, keep, block, why)


def _summaries(tables: list[NDArray[np.int64]], how: Any) -> dict[str, Any]:
    from thc_dask.kernels import statistics

    found = np.stack([statistics.bootstrap_summary(t, how=how) for t in tables])
    return {
        f"{name}{end}": found[:, e, i]
        for i, name in enumerate(statistics.UNITS)
        for e, end in enumerate(("", "_low", "_high"))
    }


def _fractions(tables: list[NDArray[np.int64]], how: Any) -> dict[str, Any]:
    from thc_dask.kernels import statistics

    ends = np.stack([
        statistics.bootstrap_fractions(t, how.n_resamples, how.confidence, how.seed) for t in tables
    ])  # fmt: skip
    return {
        "fraction": np.stack([statistics.fractions(t) for t in tables]),
        "low": ends[:, 0],
        "high": ends[:, 1],
        "count": np.stack([t.sum(axis=0) for t in tables]).astype(np.float64),
    }
