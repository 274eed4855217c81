"""What is counted against what, where that is known, and which chunks hold it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent, Grid, Vox, disjoint
from thc_dask.schemes import Label, Scheme
from thc_dask.store.imagecounts import N_INTENSITIES
from thc_dask.store.location import Location
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader
from thc_dask.store.tables import Side, Table

IMAGE = "image"
EVERY = Scheme("every", "region", (Label(0, "all"),), "all voxels, whatever their labels")


@dataclass(frozen=True)
class Axis:
    """One side of a table: an array of the store and how its values become rows."""

    name: str
    """``image`` or the name of a label set."""
    dim: Literal["region", "structure", "intensity"]
    array: ArrayReader
    codes: tuple[int, ...]
    """The value of each row, rising."""
    single: bool = False
    """Whether there is one row for all voxels, whatever they hold."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.codes)

    @property
    def n_counted(self) -> int:
        """Rows of the table while it is counted: one for each value, if those are few."""
        return self.codes[-1] + 1 if self.array.dtype == np.uint8 else self.n

    def rows(self, chunk: Any) -> Any:
        """Return voxels, an array or one number, as the rows that are counted."""
        if self.array.dtype == np.uint8:
            return chunk
        rows = self._row_of[chunk]
        return rows if rows.ndim else int(rows)

    @cached_property
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
            return self.rows.name  # of all voxels together that is ``image``
        return f"{self.columns.name}_by_{self.rows.name}"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.n, self.columns.n

    @property
    def are_bytes(self) -> bool:
        """Whether both sides are stored as bytes."""
        return {self.rows.array.dtype, self.columns.array.dtype} == {np.dtype(np.uint8)}


def _axis(store: Store, name: str) -> Axis:
    if name == IMAGE:
        image = store.image()
        if image.dtype != np.uint8:
            raise RequestError(
                f"{store.url} holds {image.dtype.name} voxels; intensities are counted in uint8: "
                "convert the source again with --window auto, or LOW:HIGH"
            )
        return _intensities(image)
    labels = store.label_set(name)
    codes = tuple(int(code) for code in labels.scheme.codes)
    return Axis(name, labels.scheme.kind, labels.array(), codes)


def make_pair(store: Store, rows: str, columns: str = IMAGE) -> Pair:
    """Return the table of ``columns`` by ``rows``, both named.

    With ``image`` as rows too it is that of all voxels together.
    """
    if rows == columns == IMAGE:
        return pair_of_image(_axis(store, IMAGE).array)
    known = store.label_set(rows).extents
    if columns != IMAGE:
        other = store.label_set(columns).extents
        known = [a.intersect(b) for a in known for b in other]
    return Pair(_axis(store, rows), _axis(store, columns), tuple(disjoint(known)))


def pair_of_image(image: ArrayReader) -> Pair:
    """Return the table of all voxels of an 8-bit image together."""
    every = Axis(IMAGE, "region", image, (0,), single=True)
    return Pair(every, _intensities(image), (Extent((0, 0, 0), image.shape),))


def _intensities(image: ArrayReader) -> Axis:
    return Axis(IMAGE, "intensity", image, tuple(range(N_INTENSITIES)))


def table_of_image(grid: Grid, digest: str) -> Table:
    """Return what the store keeps of the table of all voxels together besides the counts."""
    every = Side(IMAGE, "region", 1, EVERY)
    intensities = Side(IMAGE, "intensity", N_INTENSITIES, None)
    return Table(IMAGE, every, intensities, (grid.extent,), {IMAGE: digest})


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
        scheme = EVERY if axis.single else labels.scheme if labels else None
        sides.append(Side(axis.name, axis.dim, axis.n, scheme))
        digests[axis.name] = labels.digest if labels else store.digest
    return Table(pair.key, sides[0], sides[1], pair.known, digests)


@dataclass(frozen=True)
class Still:
    """What a lazy answer is of: what is counted later must be what was asked for.

    Called with counts it gives them on, if the store has not been changed meanwhile.
    """

    location: Location
    names: tuple[str, str]
    digests: dict[str, str]

    @classmethod
    def of(cls, store: Store, pair: Pair) -> Still:
        """Return it for a pair, as the store is now."""
        digests = describe(store, pair).digests
        return cls(store.location, (pair.rows.name, pair.columns.name), digests)

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        self.check()
        return counts

    @contextmanager
    def there(self) -> Iterator[None]:
        """Say of voxels that are not there, or not whole, that they were changed, if they were."""
        try:
            yield
        except DataError:
            self.check()
            raise

    def check(self) -> None:
        """Raise DataError where the store holds something else."""
        store = Store(self.location)
        if {*self.names} <= {*store.label_sets, IMAGE}:
            now = describe(store, make_pair(store, *self.names)).digests
            if now == self.digests:
                return
        what = " or ".join(dict.fromkeys(self.names))
        raise DataError(f"{store.url}: {what} was changed after this was asked; ask again")


def tasks(
    pairs: Sequence[Pair], within: Extent, places: Iterable[Vox] | None
) -> Iterator[list[Vox]]:
    """Yield the chunks to count, those of one shard at a time, each once."""
    array = pairs[0].rows.array
    if places is None:
        known = [b for pair in pairs for e in pair.known if (b := e.intersect(within)).n_vox]
        numbers = array.places(known)
    else:
        numbers = np.array(sorted(places), np.int64).reshape(-1, 3)
    shard_of = numbers // array.chunks_per_shard
    order = np.lexsort(shard_of.T[::-1])
    numbers, shard_of = numbers[order], shard_of[order]
    firsts = np.flatnonzero((shard_of[1:] != shard_of[:-1]).any(axis=1)) + 1
    for some in np.split(numbers, firsts):
        if len(some):
            yield [(z, y, x) for z, y, x in some.tolist()]
