"""Count tables: made in one pass over the voxels and kept in the store.

A table says how often a row (region or structure) meets a column (intensity or structure),
for each plane and for each chunk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.errors import MissingError
from thc_dask.pairs import IMAGE, Pair, describe, make_pair, tasks
from thc_dask.progress import Progress
from thc_dask.renewal import Books, earlier, layer_digests, read_layers
from thc_dask.store.read import Store, open_volume, store_of
from thc_dask.store.staging import tidy
from thc_dask.store.tableparts import Sparse, joined
from thc_dask.store.tables import keep
from thc_dask.tallies import Counted, Task, without_copy

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
    books = Books(store)
    jobs = [_Job(store, pair, books) for pair in _pairs(store, names)]
    jobs = [job for job in jobs if not job.earlier.fresh]
    task = Task(tuple(job.rest for job in jobs), store.grid.extent)
    items = list(tasks(task.pairs, store.grid.extent, None)) if jobs else []
    for done, results in enumerate(schedule.run(task, items, what=task.named, verb="count"), 1):
        for job, result in zip(jobs, results, strict=True):
            job.add(result)
        if progress is not None:
            progress(done, len(items))
    for job in jobs:
        store = job.keep(store)
    return store


def _pairs(store: Store, names: Sequence[str]) -> list[Pair]:
    """Return the tables of some label sets, and of the structures in each region."""
    kinds = {name: store.label_set(name).scheme.kind for name in names if name != IMAGE}
    pairs = [make_pair(store, name) for name in names]
    return pairs + [
        make_pair(store, rows, columns)
        for rows in kinds
        for columns in kinds
        if (kinds[rows], kinds[columns]) == ("region", "structure")
    ]


class _Job:
    """The tables of one pair: what is kept of those there are, and what is counted.

    Counts are integers, so the order of tasks does not matter.
    """

    def __init__(self, store: Store, pair: Pair, books: Books) -> None:
        self._pair = pair
        # Of a finished store the image does not change.
        layers = {} if pair.rows.single else layer_digests(pair, books)
        self._table = replace(describe(store, pair), layers=layers)
        self.earlier = earlier(store, self._table, books)
        self.rest = self.earlier.rest(pair)
        _, n_y, n_x = store.grid.shape
        # Numbers as tasks have them are added in half the time; those of a plane mostly fit.
        dtype = np.uint32 if n_y * n_x < 2**32 else np.int64
        self._planes = np.zeros((store.grid.shape[0], *pair.shape), dtype)
        self._chunks: list[tuple[NDArray[np.int64], Sparse]] = []
        if self.earlier.layers:
            depth = pair.rows.array.shard[0]
            numbers, planes, places, chunks = read_layers(
                store, self._table, self.earlier.layers, depth
            )
            self._planes[numbers] = planes
            self._chunks.append((places, chunks))

    def add(self, counted: Counted) -> None:
        """Add what a task has found."""
        stop = counted.first_plane + len(counted.planes)
        rows = without_copy(counted.rows)
        self._planes[counted.first_plane : stop, rows] += counted.planes
        self._chunks.append((counted.places, counted.chunks))

    def keep(self, store: Store) -> Store:
        """Write the tables and return the store, opened again."""
        places, chunks = joined(self._chunks, self._pair.columns.n)
        return keep(store, self._table, self._planes, places, chunks)
