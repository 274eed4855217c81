"""Count tables: made in one pass over the voxels and kept in the store.

A table says how often a row (region or structure) meets a column (intensity or structure),
for each plane and for each chunk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import schedule
from thc_dask.errors import MissingError
from thc_dask.pairs import Counted, Pair, Task, describe, make_pair, tasks
from thc_dask.store.read import Store, open_volume, store_of
from thc_dask.store.staging import tidy
from thc_dask.store.tables import keep
from thc_dask.store.write import Progress

if TYPE_CHECKING:
    import xarray as xr


def count(
    volume: str | os.PathLike[str] | xr.DataTree,
    labels: str | Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Count the voxels of a store once and keep the tables in it; return it, opened again.

    Below ``/counts/<labels>`` stand ``plane`` with ``counts (plane, region, intensity)`` and
    ``chunk`` with ``counts (chunk, region, intensity)``, int64 and uint32, known voxels only.
    Of two label sets together it also counts the structures in each region:
    ``/counts/<structures>_by_<regions>``.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    labels
        Names of label sets; by default all that the store has.
    progress
        Called with shards done and shards in all.

    Raises
    ------
    MissingError
        There is no such label set, or none at all.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> int(count(volume)["counts/roi/plane/counts"].sum()) == 32 * 64 * 96
    True
    """
    store = write_counts(volume, labels, progress=progress)
    return open_volume(store.url)


def write_counts(
    volume: Any, labels: str | Sequence[str] | None = None, *, progress: Progress | None = None
) -> Store:
    """Count and keep the tables as ``count`` does and return the store."""
    location = store_of(volume).location
    # All the while: what is counted must still be there when the tables are kept.
    with location.lock():
        tidy(location)
        return _write_counts(Store(location), labels, progress)


def _write_counts(
    store: Store, labels: str | Sequence[str] | None, progress: Progress | None
) -> Store:
    names = [labels] if isinstance(labels, str) else list(labels or store.label_sets)
    if not names:
        raise MissingError(f"{store.url} has no label set to count by; add one with thc labels")
    pairs = [make_pair(store, name) for name in names]
    kinds = {name: store.label_set(name).scheme.kind for name in names}
    pairs += [
        make_pair(store, rows, columns)
        for rows in names
        for columns in names
        if (kinds[rows], kinds[columns]) == ("region", "structure")
    ]
    task = Task(tuple(pairs), store.grid.extent)
    items = list(tasks(pairs, store.grid.extent, None))
    sums = [_Sum(store.grid.shape[0], pair) for pair in pairs]
    for done, results in enumerate(schedule.run(task, items, what=task.named, verb="count"), 1):
        for total, result in zip(sums, results, strict=True):
            total.add(result)
        if progress is not None:
            progress(done, len(items))
    for pair, total in zip(pairs, sums, strict=True):
        store = keep(store, describe(store, pair), total.planes, total.places, total.chunks)
    return store


class _Sum:
    """Tables of all tasks together; integers, so the order does not matter."""

    def __init__(self, n_planes: int, pair: Pair) -> None:
        array = pair.rows.array
        self.planes = np.zeros((n_planes, *pair.shape), np.int64)
        self.places = np.array(
            sorted({p for box in pair.known for p in array.chunks(box)}), np.int64
        ).reshape(-1, 3)
        self.chunks = np.zeros((len(self.places), *pair.shape), np.uint32)
        self._row = {tuple(p): i for i, p in enumerate(self.places.tolist())}

    def add(self, counted: Counted) -> None:
        stop = counted.first_plane + len(counted.planes)
        self.planes[counted.first_plane : stop] += counted.planes
        for place, chunk in zip(counted.places.tolist(), counted.chunks, strict=True):
            self.chunks[self._row[tuple(place)]] = chunk
