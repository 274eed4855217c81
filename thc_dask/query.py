"""Counts for any box, exactly, from the tables where they exist.

Whole chunks of a box are answered from the chunk table, chunks that the box cuts from their
voxels; whole planes from the plane table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Box, Extent, Vox
from thc_dask.index import index_of, snap
from thc_dask.pairs import IMAGE, Pair, Still, describe, known_planes, make_pair, tasks
from thc_dask.store.read import Store
from thc_dask.store.tables import Table, stored_digests
from thc_dask.tallies import Task


@dataclass(frozen=True)
class Answer:
    """Counts for a box, and where they came from."""

    table: Table
    """What the rows and columns are."""
    extent: Extent
    """Voxels of level 0 that were asked for."""
    data: Any
    """(row, column) or (plane, row, column), numpy where tables answered, else lazy dask."""
    planes: NDArray[np.int64] | None
    """Plane numbers of ``data``, if by plane."""
    answered_from: str
    asked: Extent | None = None
    """The box before it was aligned to chunks, if that moved it."""


def ask(
    store: Store, rows: str, columns: str = IMAGE, box: Box | None = None, by_plane: bool = False,
    aligned: bool = False,
) -> Answer:  # fmt: skip
    """Return the counts of ``columns`` by ``rows`` inside ``box``, exactly.

    Tables answer where they exist and are of these voxels; otherwise, and for chunks that the box
    cuts, the answer is a lazy sum over voxels. With ``aligned`` the faces of the box move to the
    nearest faces of chunks, so that no chunk is cut.
    """
    pair = make_pair(store, rows, columns)
    extent = store.grid.extent_of(box)
    if aligned:
        snapped = snap(extent, store.grid.shape, store.levels[0].chunk)
        moved = extent if snapped != extent else None
        return replace(_answer(store, pair, snapped, by_plane), asked=moved)
    return _answer(store, pair, extent, by_plane)


def _answer(store: Store, pair: Pair, extent: Extent, by_plane: bool) -> Answer:
    table = describe(store, pair)
    still = Still(store.location, (pair.rows.name, pair.columns.name), table.digests)
    planes = known_planes(pair, extent)
    stored = stored_digests(store, table)
    fresh = stored == table.digests
    if fresh and extent.shape[1:] == store.grid.shape[1:]:
        data = index_of(store, table).of_planes(planes)
        if by_plane:
            return Answer(table, extent, data, planes, "plane table")
        return Answer(table, extent, data.sum(axis=0), None, "plane table")
    if fresh and not by_plane:
        index = index_of(store, table)
        data, cut = index.whole(extent), index.cut(extent)
        if not cut:
            return Answer(table, extent, data, None, "chunk table")
        source = f"chunk table, and voxels of the {len(cut)} chunks that the box cuts"
        return Answer(table, extent, data + _lazy_total(pair, extent, cut, still), None, source)
    why = "the tables are of other voxels" if stored else "there are no tables"
    source = "voxels, because no table keeps the planes of such a box apart"
    if not fresh:
        source = f"voxels, because {why}; thc count makes them"
    if by_plane:
        return Answer(table, extent, _lazy_planes(pair, extent, planes, still), planes, source)
    return Answer(table, extent, _lazy_total(pair, extent, None, still), None, source)


def _lazy_total(pair: Pair, extent: Extent, places: Sequence[Vox] | None, still: Still) -> Any:
    """Return a dask array (row, column): one task a shard, then a sum."""
    import dask
    import dask.array as da

    task = Task((pair,), extent)
    parts = [
        da.from_delayed(dask.delayed(_sum_of_planes)(task, chunk, still), pair.shape, np.int64)
        for chunk in tasks([pair], extent, places)
    ]
    total = da.stack(parts).sum(axis=0) if parts else da.zeros(pair.shape, dtype=np.int64)
    return _checked(total, still)


def _lazy_planes(pair: Pair, extent: Extent, planes: NDArray[np.int64], still: Still) -> Any:
    """Return a dask array (plane, row, column): one task a shard, summed over y and x."""
    import dask
    import dask.array as da

    task = Task((pair,), extent)
    layers: dict[int, list[Any]] = {}
    depth = pair.rows.array.shard[0]
    for chunk in tasks([pair], extent, None):
        layers.setdefault(chunk[0][0] * pair.rows.array.chunk[0] // depth, []).append(chunk)
    parts = []
    for top, chunks in sorted(layers.items()):
        here = planes[(planes >= top * depth) & (planes < (top + 1) * depth)]
        shape = (len(here), *pair.shape)
        found = [
            da.from_delayed(dask.delayed(_some_planes)(task, c, here, still), shape, np.int64)
            for c in chunks
        ]
        parts.append(da.stack(found).sum(axis=0))
    # Dask cannot think of chunks for a box without known voxels.
    none = (0, *pair.shape)
    every = da.concatenate(parts) if parts else da.zeros(none, dtype=np.int64, chunks=none)
    return _checked(every, still)


def _checked(counts: Any, still: Still) -> Any:
    """Return a dask array that asks once more, when it is computed, what it is of."""
    return counts.map_blocks(still, dtype=np.int64, meta=np.zeros((), np.int64))


def _sum_of_planes(task: Task, places: Sequence[Vox], still: Still) -> NDArray[np.int64]:
    with still.there():
        return task(places)[0].total()


def _some_planes(
    task: Task, places: Sequence[Vox], planes: NDArray[np.int64], still: Still
) -> NDArray[np.int64]:
    with still.there():
        return task(places)[0].of_planes(planes)
