"""What is counted against what, and the task that counts it: some chunks of one shard.

Each chunk is decoded once, into memory that is still in cache when it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import Extent, Vox, disjoint
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader, OpenShard, shard_key
from thc_dask.store.tables import Side, Table

N_INTENSITIES = 256
IMAGE = "image"


@dataclass(frozen=True)
class Axis:
    """One side of a table: an array of the store and how its values become rows."""

    name: str
    """``image`` or the name of a label set."""
    dim: Literal["region", "structure", "intensity"]
    array: ArrayReader
    codes: tuple[int, ...]
    """The value of each row, rising."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.codes)

    @property
    def n_counted(self) -> int:
        """Rows of the table while it is counted: one for each value, if those are few."""
        return self.codes[-1] + 1 if self.array.dtype == np.uint8 else self.n

    def rows(self, chunk: NDArray[Any] | None) -> NDArray[Any]:
        """Return a whole chunk as the rows that are counted."""
        if chunk is None:
            chunk = np.zeros(self.array.chunk, self.array.dtype)
        return chunk if self.array.dtype == np.uint8 else self._row_of()[chunk]

    def _row_of(self) -> NDArray[np.uint16]:
        row_of = np.zeros(2**16, np.uint16)
        row_of[list(self.codes)] = np.arange(self.n)
        return row_of


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
    planes: NDArray[np.uint32]
    """(plane, row, column)."""
    places: NDArray[np.int64]
    """(chunk, 3): which chunks hold known voxels (z, y, x)."""
    chunks: NDArray[np.uint32]
    """(chunk, row, column)."""


class _Count:
    """The tables of one pair over the chunks of one task, while they are counted."""

    def __init__(self, pair: Pair, within: Extent, first_plane: int, depth: int, n: int) -> None:
        self._pair, self._first = pair, first_plane
        self._known = [b for e in pair.known if (b := e.intersect(within)).n_vox]
        shape = (pair.rows.n_counted, pair.columns.n_counted)
        # What is never touched costs nothing: the system gives pages of zeros as they are used.
        self._planes = np.zeros((depth, *shape), np.uint32)
        self._chunks = np.zeros((n, *shape), np.uint32)
        self._places: list[Vox] = []

    def parts(self, box: Extent) -> list[Extent]:
        """Return the known boxes of a chunk."""
        return [b for e in self._known if (b := e.intersect(box)).n_vox]

    def add(
        self, place: Vox, start: Vox, parts: list[Extent], rows: NDArray[Any], columns: NDArray[Any]
    ) -> None:
        """Count the known parts of a decoded chunk that begins at ``start``."""
        from thc_dask.kernels.histogram import joint_counts  # compiled: slow to load

        total = self._chunks[len(self._places)]
        z, y, x = start
        for part in parts:
            planes = self._planes[part.start[0] - self._first : part.stop[0] - self._first]
            where = part.shift((-z, -y, -x)).slices
            joint_counts(rows[where], columns[where], planes, total)
        self._places.append(place)

    def result(self) -> Counted:
        """Return the tables with a row for each code."""
        rows, columns = self._pair.rows, self._pair.columns
        planes, chunks = self._planes, self._chunks[: len(self._places)]
        for axis, which in ((1, rows), (2, columns)):
            if which.n_counted != which.n:
                planes = planes.take(which.codes, axis)
                chunks = chunks.take(which.codes, axis)
        places = np.array(self._places, np.int64).reshape(-1, 3)
        return Counted(self._first, planes, places, chunks)


@dataclass(frozen=True)
class Task:
    """Count the known voxels of some chunks inside ``within``, wherever it runs."""

    pairs: tuple[Pair, ...]
    within: Extent

    def __call__(self, places: Sequence[Vox]) -> list[Counted]:
        """Return what each pair counts in these chunks of one shard."""
        array = self.pairs[0].rows.array
        boxes = [array.chunk_extent(p) for p in places]
        first = min(b.start[0] for b in boxes)
        depth = max(b.stop[0] for b in boxes) - first
        counts = [_Count(pair, self.within, first, depth, len(places)) for pair in self.pairs]
        shards: dict[str, OpenShard] = {}
        with ExitStack() as stack:
            for place, box in zip(places, boxes, strict=True):
                decoded: dict[str, NDArray[Any]] = {}
                for pair, count in zip(self.pairs, counts, strict=True):
                    parts = count.parts(box)
                    if not parts:
                        continue
                    for axis in (pair.rows, pair.columns):
                        if axis.name not in decoded:
                            if axis.name not in shards:
                                opened = axis.array.open_shard(place, places)
                                shards[axis.name] = stack.enter_context(opened)
                            decoded[axis.name] = axis.rows(shards[axis.name].get(place))
                    rows, columns = (decoded[a.name] for a in (pair.rows, pair.columns))
                    count.add(place, box.start, parts, rows, columns)
        return [count.result() for count in counts]

    def named(self, places: Sequence[Vox]) -> str:
        """Return the store and the shard that hold these chunks."""
        array = self.pairs[0].rows.array
        shard = [a // n for a, n in zip(places[0], array.chunks_per_shard, strict=True)]
        return f"{array.location.url}: {shard_key(array.path, shard)}"


def _axis(store: Store, name: str) -> Axis:
    if name == IMAGE:
        image = store.image()
        if image.dtype != np.uint8:
            raise RequestError(
                f"{store.url} holds {image.dtype.name} voxels; intensities are counted in uint8: "
                "convert the source again with --window auto, or LOW:HIGH"
            )
        return Axis(IMAGE, "intensity", image, tuple(range(N_INTENSITIES)))
    labels = store.label_set(name)
    codes = tuple(int(code) for code in labels.scheme.codes)
    return Axis(name, labels.scheme.kind, labels.array(), codes)


def make_pair(store: Store, rows: str, columns: str = IMAGE) -> Pair:
    """Return the table of ``columns`` by ``rows``, both named."""
    known = store.label_set(rows).extents
    if columns != IMAGE:
        other = store.label_set(columns).extents
        known = [a.intersect(b) for a in known for b in other]
    return Pair(_axis(store, rows), _axis(store, columns), tuple(disjoint(known)))


def known_planes(pair: Pair, extent: Extent) -> NDArray[np.int64]:
    """Return the planes of a box that hold known voxels of it."""
    boxes = [b for e in pair.known if (b := e.intersect(extent)).n_vox]
    return np.array(sorted({z for b in boxes for z in range(b.start[0], b.stop[0])}), np.int64)


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
