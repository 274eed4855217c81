"""Which planes are used, and what lies on them: found plane by plane, wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.grid import Extent, Vox
from thc_dask.kernels.packing import Starts, packed, scattered
from thc_dask.kernels.windows import Size, largest_windows, uniform_windows
from thc_dask.patches.request import Request
from thc_dask.progress import Progress, Standing, tell
from thc_dask.store.shards import ArrayReader

HELD_BYTES = 2**26  # of planes that one task reads together
PHASE, WINDOWS = 0, 1  # streams of what is drawn here


@dataclass(frozen=True)
class Found:
    """What one plane holds."""

    plane: int
    """Of the level."""
    n_vox: NDArray[np.int64]
    """Voxels of each number, from 0 on."""
    scattered: Starts
    """Patches drawn at random."""
    packed: Starts
    """As many as go in; only of numbers of which ``scattered`` holds fewer."""

    def capacity(self, number: int) -> int:
        """Return how many patches of a number there are."""
        return max(len(found.get(number, ())) for found in (self.scattered, self.packed))

    def take(self, number: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the first voxels (y, x) of ``n`` patches of a number, at most its capacity."""
        drawn = self.scattered.get(number, np.zeros((0, 2), np.int64))
        if n <= len(drawn):
            return drawn[:n]
        close = self.packed[number]
        return close[np.sort(rng.permutation(len(close))[:n])]


@dataclass(frozen=True)
class Planes:
    """Reads whole planes of a label set as numbers."""

    array: ArrayReader
    known: tuple[Extent, ...]
    numbers: NDArray[Any]
    """The number of each code."""

    def read(self, planes: Sequence[int]) -> NDArray[Any]:
        """Return planes of one layer of chunks, (plane, y, x); 0 where nothing is known."""
        _, n_y, n_x = self.array.shape
        out = np.zeros((len(planes), n_y, n_x), self.numbers.dtype)
        # There may be thousands of boxes: each is looked at once, not once a chunk.
        known = np.zeros(out.shape, bool)
        places: set[Vox] = set()
        for i, z in enumerate(planes):
            for e in self.known:
                if e.start[0] <= z < e.stop[0]:
                    box = Extent((z, *e.start[1:]), (z + 1, *e.stop[1:]))
                    known[i][box.slices[1:]] = True
                    places.update(self.array.chunks(box))
        for _, group in groupby(sorted(places, key=self._order), self._shard):
            wanted = list(group)
            with self.array.open_shard(wanted[0], wanted) as shard:
                for place in wanted:
                    chunk = shard.get(place)
                    if chunk is not None:
                        here = self.array.chunk_extent(place)
                        depths = [z - here.start[0] for z in planes]
                        _, n_rows, n_columns = here.shape
                        part = chunk[depths, :n_rows, :n_columns]
                        out[:, *here.slices[1:]] = self.numbers[part]
        out[~known] = 0
        return out

    def _shard(self, place: Vox) -> tuple[int, ...]:
        return tuple(p // n for p, n in zip(place, self.array.chunks_per_shard, strict=True))

    def _order(self, place: Vox) -> Any:
        return self._shard(place), place


@dataclass(frozen=True)
class Look:
    """Find the patches of some planes."""

    planes: Planes
    size: Size
    seed: int
    n: int
    """The largest number."""

    def __call__(self, item: tuple[int, ...]) -> list[Found]:
        """Return what each plane of one layer of chunks holds."""
        read = self.planes.read(item)
        return [self._look(z, numbers) for z, numbers in zip(item, read, strict=True)]

    def _look(self, z: int, numbers: NDArray[Any]) -> Found:
        windows = uniform_windows(numbers, self.size)
        rng = np.random.default_rng([self.seed, WINDOWS, z])
        drawn = scattered(windows, self.size, rng)
        close = packed(windows, self.size)
        more = {n: starts for n, starts in close.items() if len(starts) > len(drawn[n])}
        return Found(z, np.bincount(numbers.ravel(), minlength=self.n + 1), drawn, more)


@dataclass(frozen=True)
class Largest:
    """Find the largest patch of each number on some planes."""

    planes: Planes
    sizes: tuple[Size, ...]
    n: int

    def __call__(self, item: tuple[int, ...]) -> NDArray[np.int64]:
        """Return a place in ``sizes`` for each number, -1 where none fits."""
        found = [largest_windows(plane, self.sizes, self.n) for plane in self.planes.read(item)]
        best: NDArray[np.int64] = np.max(found, axis=0)
        return best


def used_planes(request: Request) -> list[int]:
    """Return planes of the level with known voxels, each at least the margin from the next.

    As many as there can be, from a place that the seed draws among those that leave as many.
    """
    ranges = {(e.start[0], e.stop[0]) for e in request.known}
    known = sorted({z for start, stop in ranges for z in range(start, stop)})
    if not known:
        return []
    # What is a whole number of planes but for rounding is that number.
    step = max(1, math.ceil(request.margin_um / request.grid.spacing_um[0] - 1e-9))
    most = _apart(known, known[0], step)
    slack = min(step - 1, known[-1] - most[-1])
    shifted = _apart(known, known[0] + int(request.rng(PHASE).integers(slack + 1)), step)
    return shifted if len(shifted) == len(most) else most


def _apart(planes: Sequence[int], first: int, step: int) -> list[int]:
    """Return planes from ``first`` on, each as soon as it is ``step`` from the one before."""
    found: list[int] = []
    for z in planes:
        if z >= (found[-1] + step if found else first):
            found.append(z)
    return found


def look(request: Request, planes: Sequence[int], progress: Progress | None) -> list[Found]:
    """Return what each plane holds, in the order of the planes."""
    task = Look(_reader(request), request.size, request.seed, len(request.chosen))
    found: list[Found] = []
    for part in schedule.run(task, _items(request, planes)):
        found += part
        tell(progress, Standing(len(found), len(planes), step="look"))
    return sorted(found, key=lambda f: f.plane)


def largest_um(request: Request, planes: Sequence[int]) -> list[float]:
    """Return the size in micrometers of the largest patch of each region, 0 where none fits."""
    finest = min(request.grid.spacing_um[1:])
    ums = [finest * k for k in range(1, math.ceil(request.size_um / finest) + 1)]
    ums = [um for um in ums if um >= max(request.grid.spacing_um[1:])]
    sizes = tuple(request.size_of(um) for um in ums)
    task = Largest(_reader(request), sizes, len(request.chosen))
    found = np.full(len(request.chosen), -1, np.int64)
    for part in schedule.run(task, _items(request, planes)):
        found = np.maximum(found, part)
    return [min(ums[i], request.size_um) if i >= 0 else 0.0 for i in found]


def _reader(request: Request) -> Planes:
    return Planes(request.array, request.known, request.numbers)


def _items(request: Request, planes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield planes that are read together: of one layer of chunks, as far as memory goes."""
    _, n_y, n_x = request.grid.shape
    most = max(1, HELD_BYTES // (n_y * n_x * request.numbers.itemsize))
    depth = request.array.chunk[0]
    for _, layer in groupby(planes, lambda z: z // depth):
        held = list(layer)
        for i in range(0, len(held), most):
            yield tuple(held[i : i + most])
