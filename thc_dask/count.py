"""Count tables: made in one pass over the voxels and kept in the store.

A table says how often a row (region or structure) meets a column (intensity or structure),
for each plane and for each chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Extent, Vox, disjoint
from thc_dask.store.read import Store, open_volume, store_of
from thc_dask.store.shards import ArrayReader, scratch
from thc_dask.store.tables import Side, Table, keep
from thc_dask.store.write import Progress

if TYPE_CHECKING:
    import xarray as xr

N_INTENSITIES = 256
IMAGE = "image"


@dataclass(frozen=True)
class Axis:
    """One side of a table: an array of the store and how its values become rows."""

    name: str
    """``image`` or the name of a label set."""
    dim: Literal["region", "structure", "intensity"]
    array: ArrayReader
    n: int
    """Number of rows."""
    row_of: NDArray[np.uint16] | None
    """Row of each voxel value; None where the value is the row."""

    def rows(self, chunk: NDArray[Any] | None) -> NDArray[Any]:
        """Return a whole chunk as rows."""
        if chunk is None:
            zeros = scratch.array("zeros", self.array.chunk, np.dtype(np.uint8))
            zeros[...] = 0
            return zeros if self.row_of is None or self.row_of[0] == 0 else self.row_of[zeros]
        return chunk if self.row_of is None else self.row_of[chunk]


@dataclass(frozen=True)
class Pair:
    """A table: rows by columns, over the voxels where both are known."""

    rows: Axis
    columns: Axis
    known: tuple[Extent, ...]
    """Boxes of level 0 that do not overlap."""

    @property
    def key(self) -> str:
        """Name of the table in the store."""
        if self.columns.name == IMAGE:
            return self.rows.name
        return f"{self.columns.name}_by_{self.rows.name}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.n, self.columns.n


@dataclass(frozen=True)
class Counted:
    """What one task found for one pair."""

    first_plane: int
    planes: NDArray[np.int64]
    """(plane, row, column)."""
    places: NDArray[np.int64]
    """(chunk, 3): which chunks hold known voxels (z, y, x)."""
    chunks: NDArray[np.uint32]
    """(chunk, row, column)."""


@dataclass(frozen=True)
class Task:
    """Count the known voxels of some chunks inside ``within``, wherever it runs."""

    pairs: tuple[Pair, ...]
    within: Extent

    def __call__(self, places: Sequence[Vox]) -> list[Counted]:
        """Return what each pair counts in these chunks; each chunk is decoded once."""
        from thc_dask.kernels.histogram import joint_counts  # compiled: slow to load

        array = self.pairs[0].rows.array
        boxes = [array.chunk_extent(p) for p in places]
        first = min(b.start[0] for b in boxes)
        depth = max(b.stop[0] for b in boxes) - first
        tables = [np.zeros((depth, *pair.shape), np.int64) for pair in self.pairs]
        found: list[list[tuple[Vox, NDArray[np.uint32]]]] = [[] for _ in self.pairs]
        for place, box in zip(places, boxes, strict=True):
            decoded: dict[str, NDArray[Any]] = {}
            for pair, table, chunks in zip(self.pairs, tables, found, strict=True):
                inside = [
                    b for e in pair.known if (b := e.intersect(box).intersect(self.within)).n_vox
                ]
                if not inside:
                    continue
                for axis in (pair.rows, pair.columns):
                    if axis.name not in decoded:
                        decoded[axis.name] = axis.rows(axis.array.get(place))
                total = np.zeros(pair.shape, np.uint32)
                for part in inside:
                    z, y, x = box.start
                    where = part.shift((-z, -y, -x)).slices
                    planes = table[part.start[0] - first : part.stop[0] - first]
                    rows, columns = (decoded[a.name][where] for a in (pair.rows, pair.columns))
                    joint_counts(rows, columns, planes, total)
                chunks.append((place, total))
        return [
            Counted(
                first,
                table,
                np.array([p for p, _ in chunks], np.int64).reshape(-1, 3),
                np.array([t for _, t in chunks], np.uint32).reshape(-1, *pair.shape),
            )
            for pair, table, chunks in zip(self.pairs, tables, found, strict=True)
        ]


def _axis(store: Store, name: str) -> Axis:
    if name == IMAGE:
        image = store.image()
        if image.dtype != np.uint8:
            raise RequestError(
                f"{store.url} holds {image.dtype.name} voxels; intensities are counted in uint8: "
                "convert the source again with --window auto, or LOW:HIGH"
            )
        return Axis(IMAGE, "intensity", image, N_INTENSITIES, None)
    labels = store.label_set(name)
    scheme, array = labels.scheme, labels.array()
    plain = bool((scheme.codes == np.arange(len(scheme.codes))).all())
    row_of = None if plain else scheme.row_of_code(array.dtype)
    return Axis(name, scheme.kind, array, len(scheme.labels), row_of)


def make_pair(store: Store, rows: str, columns: str = IMAGE) -> Pair:
    """Return the table of ``columns`` by ``rows``, both named."""
    known = store.label_set(rows).extents
    if columns != IMAGE:
        other = store.label_set(columns).extents
        known = [a.intersect(b) for a in known for b in other]
    return Pair(_axis(store, rows), _axis(store, columns), tuple(disjoint(known)))


def describe(store: Store, pair: Pair) -> Table:
    """Return what the store keeps of a pair besides the counts."""
    sides = []
    digests: dict[str, str] = {}
    for axis in (pair.rows, pair.columns):
        labels = None if axis.name == IMAGE else store.label_set(axis.name)
        sides.append(Side(axis.name, axis.dim, axis.n, labels.scheme if labels else None))
        digests[axis.name] = labels.digest if labels else store.digest
    return Table(pair.key, sides[0], sides[1], pair.known, digests)


def tasks(
    pairs: Sequence[Pair], within: Extent, places: Iterable[Vox] | None
) -> Iterator[list[Vox]]:
    """Yield the chunks to count, those of one shard at a time."""
    array = pairs[0].rows.array
    known = [b for pair in pairs for e in pair.known if (b := e.intersect(within)).n_vox]
    if places is None:
        places = {p for box in known for p in array.chunks(box)}
    shards: dict[Vox, list[Vox]] = {}
    for p in sorted(places):
        z, y, x = (a // n for a, n in zip(p, array.chunks_per_shard, strict=True))
        shards.setdefault((z, y, x), []).append(p)
    yield from shards.values()


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
    store = store_of(volume)
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
    for done, results in enumerate(schedule.run(task, items), 1):
        for total, result in zip(sums, results, strict=True):
            total.add(result)
        if progress is not None:
            progress(done, len(items))
    with store.location.lock():
        for pair, total in zip(pairs, sums, strict=True):
            places, chunks = total.chunks(pair.shape)
            store = keep(store, describe(store, pair), total.planes, places, chunks)
    return store


class _Sum:
    """Tables of all tasks together; integers, so the order does not matter."""

    def __init__(self, n_planes: int, pair: Pair) -> None:
        self.planes = np.zeros((n_planes, *pair.shape), np.int64)
        self._places: list[NDArray[np.int64]] = []
        self._chunks: list[NDArray[np.uint32]] = []

    def add(self, counted: Counted) -> None:
        stop = counted.first_plane + len(counted.planes)
        self.planes[counted.first_plane : stop] += counted.planes
        self._places.append(counted.places)
        self._chunks.append(counted.chunks)

    def chunks(self, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the places of all counted chunks, sorted, and their tables."""
        places = np.concatenate([np.zeros((0, 3), np.int64), *self._places])
        tables = np.concatenate([np.zeros((0, *shape), np.uint32), *self._chunks])
        order = np.lexsort(places.T[::-1])
        return places[order], tables[order]
