"""Places of a pyramid where each level is held against the finer one.

Checksums cannot tell whether a level was made right. At drawn places, the far corner with its odd
sizes always among them, voxels are made again from the finer level: in plain numpy, not with the
compiled code that wrote them.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError
from thc_dask.grid import Extent, Vox
from thc_dask.reader import read
from thc_dask.store.consistency import Problem
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader

SIDE = 32  # voxels of a spot along each axis, of the coarser level


@dataclass(frozen=True)
class Spot:
    """A box of one level, and the finer level that it must follow from."""

    fine: ArrayReader
    coarse: ArrayReader
    level: int
    """Of the coarser."""
    box: Extent
    """Voxels of the coarser level."""
    known: tuple[Extent, ...] | None
    """Of a label set: where labels are known, voxels of level 0."""
    codes: tuple[int, ...] = ()
    """Of a label set: those there are."""

    @property
    def finer(self) -> Extent:
        """The voxels of the finer level that the box stands for."""
        a, b = self.box.start, self.box.stop
        both = Extent((2 * a[0], 2 * a[1], 2 * a[2]), (2 * b[0], 2 * b[1], 2 * b[2]))
        return both.intersect(Extent((0, 0, 0), self.fine.shape))

    @property
    def keys(self) -> set[str]:
        """The shards that are looked at, stored or not."""
        return {
            _key(array, place)
            for array, box in ((self.fine, self.finer), (self.coarse, self.box))
            for place in array.chunks(box)
        }


def spots(store: Store, n: int, seed: int = 0) -> Iterator[Spot]:
    """Yield ``n`` spots of each level but the finest, of the image and of every label set."""
    pyramids: list[tuple[str, str, tuple[Extent, ...] | None, tuple[int, ...]]]
    pyramids = [("", "image", None, ())]
    for name, labels in store.label_sets.items():
        codes = tuple(int(code) for code in labels.scheme.codes)
        pyramids.append((f"labels/{name}/", name, tuple(labels.extents), codes))
    for prefix, name, known, codes in pyramids:
        arrays = [store.array(f"{prefix}{k}/{name}", k) for k in range(len(store.levels))]
        for k in range(1, len(arrays)):
            rng = np.random.default_rng([seed, k, zlib.crc32(prefix.encode())])
            for i in range(n):
                box = _place(rng, i, arrays[k].shape, k, known)
                yield Spot(arrays[k - 1], arrays[k], k, box, known, codes)


def _place(
    rng: np.random.Generator, i: int, shape: Vox, level: int, known: Sequence[Extent] | None
) -> Extent:
    """Return a box of a level: the far corner first, then anywhere; labels, half near known."""
    last = [max(0, n - SIDE) for n in shape]
    start = last if i == 0 else [int(rng.integers(a + 1)) for a in last]
    if known and i % 2:
        near = known[int(rng.integers(len(known)))].level(level)
        # Around a voxel that is known, so that a single plane is met too.
        inside = [int(rng.integers(a, b)) for a, b in zip(near.start, near.stop, strict=True)]
        start = [
            min(max(0, v - int(rng.integers(SIDE))), a) for v, a in zip(inside, last, strict=True)
        ]
    z, y, x = start
    stop = tuple(min(a + SIDE, n) for a, n in zip(start, shape, strict=True))
    return Extent((z, y, x), stop)  # type: ignore[arg-type]


def look(spot: Spot) -> list[Problem]:
    """Return the shards that contradict the finer level, or their own metadata, at a spot."""
    finer = spot.finer
    found = [*_unreadable(spot.fine, finer), *_unreadable(spot.coarse, spot.box)]
    if found:
        return found
    fine, coarse = read(spot.fine, finer), read(spot.coarse, spot.box)
    if spot.known is None:
        wanted, how = _mean(fine), f"the mean of level {spot.level - 1}"
    else:
        known = _mask(finer, [e.level(spot.level - 1) for e in spot.known])
        wanted, how = _mode(fine, known), f"the mode of level {spot.level - 1}"
        if spot.level == 1:
            found += _wrong(spot.fine, finer, (fine != 0) & ~known, "known nowhere in the extents")
            found += _wrong(spot.fine, finer, ~np.isin(fine, spot.codes), "codes of the scheme")
    return found + _wrong(spot.coarse, spot.box, wanted != coarse, how)


def _wrong(array: ArrayReader, box: Extent, odd: NDArray[Any], how: str) -> list[Problem]:
    """Return the shards that hold odd voxels."""
    places = np.argwhere(odd)
    if not len(places):
        return []
    shards, counts = np.unique((places + box.start) // array.shard, axis=0, return_counts=True)
    return [
        Problem(array.key((int(z), int(y), int(x))), "wrong", f"{n} voxels in {box} are not {how}")
        for (z, y, x), n in zip(shards, counts, strict=True)
    ]


def _unreadable(array: ArrayReader, box: Extent) -> list[Problem]:
    """Return the shards whose chunks cannot be decoded, or hold voxels beyond the far faces."""
    found = {}
    for place in array.chunks(box):
        key = _key(array, place)
        try:
            chunk = array.get(place)
        except DataError:
            found[key] = Problem(key, "damaged", f"chunk {place} cannot be decoded")
            continue
        have = array.chunk_extent(place).shape
        if chunk is not None and have != array.chunk:
            inside = tuple(slice(0, n) for n in have)
            if np.count_nonzero(chunk) != np.count_nonzero(chunk[inside]):
                found[key] = Problem(key, "wrong", f"chunk {place} has voxels beyond the volume")
    return list(found.values())


def _key(array: ArrayReader, place: Vox) -> str:
    """Return the key of the shard that holds a chunk."""
    z, y, x = (p // n for p, n in zip(place, array.chunks_per_shard, strict=True))
    return array.key((z, y, x))


def _corners(array: NDArray[Any]) -> NDArray[Any]:
    """Return the up to eight voxels under each of the next level; zero where there is none."""
    padded = np.pad(array, [(0, n % 2) for n in array.shape])
    starts = itertools.product((0, 1), repeat=3)
    return np.stack([padded[z::2, y::2, x::2] for z, y, x in starts])


def _mean(fine: NDArray[Any]) -> NDArray[Any]:
    """Return the mean of the voxels that exist, halves to even."""
    total = _corners(fine).sum(axis=0, dtype=np.int64)
    # Whole numbers and divisors of 1, 2, 4, 8: float64 is exact.
    count = _corners(np.ones(fine.shape, np.int64)).sum(axis=0)
    wanted: NDArray[Any] = np.rint(total / count).astype(fine.dtype)
    return wanted


def _mode(fine: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the most frequent known code, ties to the smallest; zero where none is known."""
    codes, may = _corners(fine).astype(np.int64), _corners(known)
    votes = np.stack([((codes == code) & may).sum(axis=0) for code in codes])
    # One number to be the largest: votes first, then the smaller code.
    best = np.where(may, votes * 2**17 - codes, -(2**17)).argmax(axis=0)
    found = np.take_along_axis(codes, best[None], axis=0)[0]
    return np.where(may.any(axis=0), found, 0).astype(fine.dtype)


def _mask(box: Extent, extents: Sequence[Extent]) -> NDArray[np.bool_]:
    """Return which voxels of a box are known."""
    mask = np.zeros(box.shape, bool)
    z, y, x = box.start
    for extent in extents:
        both = extent.intersect(box)
        if both.n_vox:
            mask[both.shift((-z, -y, -x)).slices] = True
    return mask
