"""Local maps: a fraction or a mean for every cell of a coarse grid."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.cells import Cells, cell_counts
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import AXES, Extent, Grid, Vox
from thc_dask.index import index_of
from thc_dask.pairs import EVERY, IMAGE, Pair, describe, make_pair
from thc_dask.results import apply, attributes
from thc_dask.sampling import DENOMINATORS, check_denominator, check_kinds, is_masked, restricted
from thc_dask.store.maps import keep_map
from thc_dask.store.read import Store, store_of
from thc_dask.store.staging import tidy
from thc_dask.store.tables import Table, stored_digests

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store

MOST_NUMBERS = 2**27  # of counts, all cells together: a gigabyte


def maps(
    volume: Volume,
    of: str = "microstructure",
    *,
    by: str | None = None,
    region: str | None = None,
    cell_um: float | None = None,
    denominator: str = "known",
    keep: bool = False,
) -> xr.Dataset:
    """Return a coarse image of what each cell comes to: fractions of structures, or the mean.

    Exact: of all known voxels of the cell. Where a cell is whole chunks it follows from the tables;
    else voxels are counted, lazily.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    of
        Label set of structures (a map of the fraction of each), or ``image`` (one of the mean
        intensity).
    by
        Label set of regions, where only ``region`` counts; of ``image``, only voxels where it is
        known. Without it, or a ``region`` (of the first such set), ``image`` is of all voxels.
    region
        Count only voxels of this region.
    cell_um
        Side of a cell, rounded to whole voxels along each axis; by default a chunk.
    denominator
        ``known`` or ``unclipped``; of structures ``foreground`` too, as ``fractions`` takes it.
    keep
        Write the maps into the store, as images of float32 at ``maps/<of>_<structure>`` or
        ``maps/image_mean``, with ``_<region>`` where one is named.

    Returns
    -------
    xarray.Dataset
        A float32 variable (z, y, x) for each map, with the middles of the cells in micrometers;
        NaN where a cell holds no such voxel. ``n_vox`` (z, y, x): of how many voxels.

    Raises
    ------
    MissingError
        There is no such label set or region; the message names those there are.
    RequestError
        The cells are thinner than a voxel, or too many; or another option is wrong.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> found = maps(volume, of="image", cell_um=37.44)
    >>> found["image_mean"].sizes == {"z": 1, "y": 2, "x": 3}
    True
    """
    import xarray as xr

    store = store_of(volume)
    asked = _asked(store, of, by, region, denominator)
    grid, cells = _cells(store, cell_um, asked.pair)
    counts, answered_from = _counts(store, asked, cells)
    attrs = attributes(
        store, asked.table, store.grid.extent, answered_from, of=of, by=asked.by,
        region=region, denominator=DENOMINATORS[denominator],
        cell_um=[round(float(p), 9) for p in grid.spacing_um],
    )  # fmt: skip
    attrs = {name: value for name, value in attrs.items() if value is not None}
    shape = cells.shape

    def numbers(found: NDArray[np.int64]) -> NDArray[np.float32]:
        return asked.values(found)

    values = apply(numbers, counts, (len(asked.names), *shape), np.float32)
    dims = AXES
    data: dict[str, Any] = {name: (dims, values[i]) for i, name in enumerate(asked.names)}
    data["n_vox"] = (dims, apply(asked.total, counts, shape, np.int64))
    coords = {a: (a, grid.coordinates(i), {"units": "micrometer"}) for i, a in enumerate(AXES)}
    result = xr.Dataset(data, coords, attrs)
    return _kept(store, result.compute(), asked.names, grid) if keep else result


@dataclass(frozen=True)
class _Asked:
    """What is counted in each cell, and what becomes of it."""

    pair: Pair
    table: Table
    names: tuple[str, ...]
    """Of the maps."""
    by: str | None
    rows: tuple[int, ...]
    """Of the table that count; all others do not."""
    structures: str
    """``rows``, ``columns`` or nothing: where the structures are."""
    first: int
    """The first structure of the denominator."""
    unclipped: bool

    def counted(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (..., structure or intensity): what the denominator is the sum of."""
        some = counts[..., list(self.rows), :]
        if self.pair.columns.name == IMAGE and self.unclipped:
            some = restricted(some, self.table.columns, "unclipped")[0]
        found: NDArray[np.int64] = some.sum(axis=-1 if self.structures == "rows" else -2)
        return found[..., self.first :]

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many voxels each cell has that count."""
        found: NDArray[np.int64] = self.counted(counts).sum(axis=-1)
        return found

    def values(self, counts: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the maps, (map, z, y, x)."""
        n = self.counted(counts)
        total = n.sum(axis=-1)
        tops = np.moveaxis(n, -1, 0) if self.structures else (n @ np.arange(n.shape[-1]))[None]
        found = np.full(tops.shape, np.nan)
        np.divide(tops, total, out=found, where=np.broadcast_to(total > 0, tops.shape))
        return found.astype(np.float32)


def _asked(store: Store, of: str, by: str | None, region: str | None, denominator: str) -> _Asked:
    check_denominator(denominator, of)
    if of == IMAGE and by is None and region is not None:
        kinds = {n: s.scheme.kind for n, s in store.label_sets.items()}
        by = next((n for n, kind in kinds.items() if kind == "region"), next(iter(kinds), None))
        if by is None:
            raise MissingError(f"{store.url} has no label set to map by; add one with thc labels")
    if region is not None and by is None:
        raise RequestError(f"region {region!r}: give --by, the label set it is of")
    if of != IMAGE and by is not None:
        check_kinds(store, of, by)
    rows, columns = (of, IMAGE) if by is None else (by, of)
    pair = make_pair(store, rows, columns)
    scheme = EVERY if rows == IMAGE else store.label_set(rows).scheme
    chosen = tuple(range(len(scheme.labels)))
    if region is not None:
        names = [x.name for x in scheme.labels]
        if region not in names:
            raise MissingError(f"{rows!r} has no region {region!r}; it has: {', '.join(names)}")
        chosen = (names.index(region),)
    first = 1 if denominator == "foreground" else 0
    end = "" if region is None else f"_{region.replace(' ', '_')}"
    what, structures = ["mean"], ""
    if of != IMAGE:
        what = [x.name.replace(" ", "_") for x in store.label_set(of).scheme.labels[first:]]
        structures = "rows" if by is None else "columns"
    maps = tuple(f"{of}_{name}{end}" for name in what)
    table = describe(store, pair)
    return _Asked(pair, table, maps, by, chosen, structures, first, denominator == "unclipped")


def _cells(store: Store, cell_um: float | None, pair: Pair) -> tuple[Grid, Cells]:
    """Return where the cells are, as a grid and as boxes of voxels; the last ones may be cut."""
    shape, spacing = store.grid.shape, store.grid.spacing_um
    if cell_um is None:
        size = [min(c, n) for c, n in zip(store.levels[0].chunk, shape, strict=True)]
    else:
        if not (math.isfinite(cell_um) and cell_um >= max(spacing)):
            raise RequestError(
                f"cell {cell_um:g} um: a voxel is {max(spacing):g} um; give that or more"
            )
        size = [min(n, round(cell_um / p)) for n, p in zip(shape, spacing, strict=True)]
    bins = tuple(
        tuple((a, min(a + s, n)) for a in range(0, n, s)) for s, n in zip(size, shape, strict=True)
    )
    cells = Cells(bins)  # type: ignore[arg-type]
    n_numbers = math.prod(cells.shape) * math.prod(pair.shape)
    if n_numbers > MOST_NUMBERS:
        least = max(s * p for s, p in zip(size, spacing, strict=True))
        least *= (n_numbers / MOST_NUMBERS) ** (1 / 3)
        raise RequestError(
            f"cells of {cell_um:g} um are {math.prod(cells.shape):,}, whose counts would not fit "
            f"into memory; give at least {math.ceil(least)} um"
        )
    um: Any = tuple(s * p for s, p in zip(size, spacing, strict=True))
    origin: Any = tuple(
        t + p * (s - 1) / 2 for t, p, s in zip(store.grid.origin_um, spacing, size, strict=True)
    )
    return Grid(cells.shape, um, origin), cells


def _counts(store: Store, asked: _Asked, cells: Cells) -> tuple[Any, str]:
    """Return counts (z, y, x, row, column), from the table of chunks where it has them."""
    pair = asked.pair
    masked = is_masked("unclipped" if asked.unclipped else "known", pair.columns.name)
    table = asked.table
    size: Vox = cells.cell((0, 0, 0)).shape
    chunk = store.levels[0].chunk
    whole = all(s % c == 0 or s == n for s, c, n in zip(size, chunk, store.grid.shape, strict=True))
    if whole and not masked and stored_digests(store, table) == table.digests:
        row, places, counts = index_of(store, table).chunks()
        starts = places * np.array(chunk)
        z, y, x = (starts // np.array(size)).T
        found = np.zeros((*cells.shape, *pair.shape), np.int64)
        np.add.at(found, (z, y, x, row), counts)
        return found, "chunk table"
    every = Extent((0, 0, 0), store.grid.shape)
    why = "clipped voxels are in no table" if masked else "cells are no whole chunks, or no tables"
    return cell_counts(store, pair, cells, every, masked), f"voxels: {why}"


def _kept(store: Store, found: xr.Dataset, names: tuple[str, ...], grid: Grid) -> xr.Dataset:
    """Write maps into the store and return them."""
    record = {k: v for k, v in found.attrs.items() if k not in ("store", "software")}
    with store.location.lock():
        tidy(store.location)
        current = Store(store.location)
        now = {n: current.digest if n == IMAGE else current.label_set(n).digest
               for n in record["digests"]}  # fmt: skip
        if now != record["digests"]:
            raise RequestError(f"{store.url} was changed while its maps were made; make them again")
        for name in names:
            kind = {"kind": "mean" if name.startswith(IMAGE) else "fraction"}
            current = keep_map(current, name, found[name].values, grid, kind | record)
    return found
