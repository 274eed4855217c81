"""Counts by what is drawn: planes, blocks of planes, or planes of cubes; and of which voxels.

What a voxel counts for is the denominator; what intervals and tests deal out is the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.cells import ENDS, Cells, cell_counts, each_plane
from thc_dask.draws import is_whole
from thc_dask.errors import RequestError
from thc_dask.grid import Box, Extent
from thc_dask.index import snap
from thc_dask.interpolate import planes_apart
from thc_dask.pairs import IMAGE, Pair, describe, known_planes, make_pair
from thc_dask.query import ask
from thc_dask.store.read import Store
from thc_dask.store.tables import Side, Table

AUTO = "auto"
DENOMINATORS = {
    "known": "all known voxels of the region",
    "foreground": "voxels of the region in any structure, background left out",
    "unclipped": "known voxels of the region with an intensity of 1 to 254, clipped ones left out",
}
EMPTY = {
    "known": "no known voxels",
    "foreground": "no known voxels in any structure",
    "unclipped": "no known voxels that are not clipped",
}

Cubes = str | Sequence[Extent] | None


@dataclass(frozen=True)
class Units:
    """How planes make up what is drawn."""

    first: NDArray[np.int64]
    """Where in the table of planes each unit begins."""
    cube: NDArray[np.int64] | None
    """Which cube it is of, if cubes are drawn."""
    block: int
    """Adjacent planes that are drawn together."""

    def pool(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return counts by (unit, ...) from counts by (plane, ...)."""
        if not len(self.first):
            return counts
        found: NDArray[np.int64] = np.add.reduceat(counts, self.first, axis=0)
        return found

    @property
    def drawn(self) -> str:
        """Return what is drawn, in words."""
        units = "planes" if self.block == 1 else f"blocks of {self.block} planes"
        return units if self.cube is None else f"cubes and {units} within them"


@dataclass(frozen=True)
class Sample:
    """Counts by plane, numpy where tables answered, else lazy dask."""

    table: Table
    extent: Extent
    """Voxels of level 0 that were asked for."""
    data: Any
    """(plane, row, column)."""
    planes: NDArray[np.int64]
    """Number of each plane; rising within a cube."""
    cubes: NDArray[np.int64] | None
    columns: NDArray[np.bool_]
    """Which columns of the table are left: ``foreground`` leaves out the first."""
    denominator: str
    answered_from: str
    asked: Extent | None = None
    """The box before it was aligned to chunks, if that moved it."""

    def units(self, block: int = 1) -> Units:
        """Return units of so many adjacent planes."""
        check_block(block)
        cube = np.zeros(len(self.planes), np.int64) if self.cubes is None else self.cubes
        name = np.stack([cube, self.planes // block])
        begins = np.ones(len(self.planes), bool)
        begins[1:] = (name[:, 1:] != name[:, :-1]).any(axis=0)
        first = np.flatnonzero(begins)
        of = None if self.cubes is None else cube[first]
        return Units(first, of, block)


def block_of(store: Store, names: Sequence[str], block: int | None) -> int:
    """Return how many planes are drawn together, if that was not said.

    Planes between annotated ones follow from these: an annotated plane is drawn with its own.
    """
    return planes_apart(store, names) if block is None else block


def check_block(block: int) -> None:
    """Raise RequestError where planes cannot be drawn so many together."""
    if not is_whole(block, 1):
        raise RequestError(f"block {block!r}: give a number of planes, 1 or more")


def check_kinds(store: Store, of: str, by: str) -> None:
    """Raise RequestError where two label sets are not structures and regions."""
    kinds = {name: store.label_set(name).scheme.kind for name in (of, by)}
    if kinds[of] == kinds[by]:
        raise RequestError(
            f"{of!r} by {by!r}: both are label sets of {kinds[of]}s; give a set of structures as "
            "of (--of) and a set of regions as by (--by)"
        )


def check_denominator(denominator: str, columns: str) -> None:
    """Raise RequestError where shares of ``columns`` cannot be of that denominator."""
    allowed = [d for d in DENOMINATORS if columns != IMAGE or d != "foreground"]
    if denominator not in allowed:
        raise RequestError(f"denominator {denominator!r}: give one of {', '.join(allowed)}")


def sample(
    store: Store, rows: str, columns: str = IMAGE, box: Box | None = None,
    denominator: str = "known", cubes: Cubes = None, by_plane: bool = True, aligned: bool = False,
) -> Sample:  # fmt: skip
    """Return the counts of ``columns`` by ``rows`` by plane, of one denominator.

    Tables answer where they can. Cubes, and structures without clipped voxels, are counted from
    voxels, lazily.

    Parameters
    ----------
    store, rows, columns, box, aligned
        As ``ask`` takes them.
    denominator
        ``known``; ``foreground`` (without structure 0); ``unclipped`` (without intensities 0 and
        255).
    cubes
        Boxes of voxels that do not overlap: planes are kept apart by cube, and nothing else
        counts. ``auto`` takes the boxes in which the labels are known, those that overlap in y and
        x together.
    by_plane
        Whether planes are needed: a box is answered faster when they may be summed up, as if all
        of it were one plane.
    """
    check_denominator(denominator, columns)
    if cubes is None and not is_masked(denominator, columns):
        answer = ask(store, rows, columns, box, by_plane=by_plane, aligned=aligned)
        planes = np.zeros(1, np.int64) if answer.planes is None else answer.planes
        data = answer.data if by_plane else answer.data[None]
        every = np.ones(answer.table.columns.n, bool)
        found = Sample(
            answer.table, answer.extent, data, planes, None, every, denominator,
            answer.answered_from, answer.asked,
        )  # fmt: skip
    else:
        extent = asked = store.grid.extent_of(box)
        if aligned:
            extent = snap(asked, store.grid.shape, store.levels[0].chunk)
        found = _from_voxels(store, make_pair(store, rows, columns), extent, denominator, cubes)
        found = replace(found, asked=asked if extent != asked else None)
    data, columns_left = restricted(found.data, found.table.columns, denominator)
    return replace(found, data=data, columns=columns_left)


def restricted(data: Any, columns: Side, denominator: str) -> tuple[Any, NDArray[np.bool_]]:
    """Return counts (..., column) of one denominator, and which columns are left.

    Clipped voxels of structures are no column: they must have been left out when they were counted.
    """
    keep = np.ones(columns.n, bool)
    if denominator == "foreground":
        keep = columns.values != 0
        return data[..., keep], keep
    if denominator == "unclipped" and columns.scheme is None:
        weight = np.ones(columns.n, np.int64)
        weight[list(ENDS)] = 0
        return data * weight, keep
    return data, keep


def is_masked(denominator: str, columns: str) -> bool:
    """Whether voxels that are clipped must be left out while others are counted."""
    return denominator == "unclipped" and columns != IMAGE


def _from_voxels(
    store: Store, pair: Pair, extent: Extent, denominator: str, cubes: Cubes
) -> Sample:
    where = _cubes(pair, extent, cubes)
    unclipped = is_masked(denominator, pair.columns.name)
    parts, planes, names = [], [], []
    for i, cube in enumerate(where):
        held = known_planes(pair, cube)
        cells = Cells((each_plane(held), ((cube.start[1], cube.stop[1]),),
                       ((cube.start[2], cube.stop[2]),)))  # fmt: skip
        parts.append(cell_counts(store, pair, cells, cube, unclipped)[:, 0, 0])
        planes.append(held)
        names.append(np.full(len(held), i, np.int64))
    why = "voxels: tables do not keep " + ("cubes apart" if cubes else "clipped voxels apart")
    return Sample(
        describe(store, pair), extent, _joined(parts, pair.shape),
        np.concatenate([np.zeros(0, np.int64), *planes]),
        np.concatenate([np.zeros(0, np.int64), *names]) if cubes is not None else None,
        np.ones(pair.columns.n, bool), denominator, why,
    )  # fmt: skip


def _joined(parts: Sequence[Any], shape: tuple[int, int]) -> Any:
    import dask.array as da

    some = [part for part in parts if part.shape[0]]
    return da.concatenate(some) if some else np.zeros((0, *shape), np.int64)


def _cubes(pair: Pair, extent: Extent, cubes: Cubes) -> list[Extent]:
    """Return what of each cube lies in the box."""
    if cubes is None:
        return [extent]
    if cubes == AUTO:
        found = _footprints([b for e in pair.known if (b := e.intersect(extent)).n_vox])
    elif isinstance(cubes, Sequence) and not isinstance(cubes, str) and len(cubes):
        found = list(cubes)
    else:
        raise RequestError(f"cubes {cubes!r}: give {AUTO}, or boxes of voxels z0:z1,y0:y1,x0:x1")
    volume = Extent((0, 0, 0), pair.rows.array.shape)
    for i, cube in enumerate(found):
        if not isinstance(cube, Extent):
            raise RequestError(
                f"cube {cube!r}: give Extent((z, y, x), (z, y, x)), in voxels; a Box, in "
                "micrometers, is none"
            )
        if not volume.contains(cube):
            raise RequestError(f"cube {cube}: it reaches outside of the volume {volume}, in voxels")
        if not cube.intersect(extent).n_vox:
            raise RequestError(f"cube {cube}: it lies outside of the box {extent}, in voxels")
        for other in found[:i]:
            if cube.intersect(other).n_vox:
                raise RequestError(f"cubes {other} and {cube} overlap; a voxel counts once")
    return [cube.intersect(extent) for cube in found]


def _footprints(boxes: Sequence[Extent]) -> list[Extent]:
    """Return boxes around those that overlap in y and x: annotated planes make up cubes.

    >>> planes = [Extent((z, 0, 0), (z + 1, 8, 8)) for z in (3, 9)]
    >>> [str(e) for e in _footprints([*planes, Extent((3, 20, 0), (4, 28, 8))])]
    ['3:10,0:8,0:8', '3:4,20:28,0:8']
    """
    found: list[Extent] = []
    for box in boxes:
        joined = box
        while True:
            met = [e for e in found if _flat(joined).intersect(_flat(e)).n_vox]
            if not met:
                break
            found = [e for e in found if e not in met]
            for e in met:
                joined = _around(joined, e)
        found.append(joined)
    return sorted(found, key=lambda e: (e.start[1:], e.start[0]))


def _flat(box: Extent) -> Extent:
    return Extent((0, *box.start[1:]), (1, *box.stop[1:]))


def _around(a: Extent, b: Extent) -> Extent:
    start = tuple(min(p, q) for p, q in zip(a.start, b.start, strict=True))
    stop = tuple(max(p, q) for p, q in zip(a.stop, b.stop, strict=True))
    return Extent(start, stop)  # type: ignore[arg-type]


def notes(
    n_vox: NDArray[np.int64], n_units: NDArray[np.int64] | None, denominator: str, block: int = 1
) -> NDArray[Any]:
    """Return why a row has no value, or no interval if there are units: else it is empty."""
    text = np.full(n_vox.shape, "", object)
    noun = "plane" if block == 1 else f"block of {block} planes"
    if n_units is not None:
        text[n_units < 2] = f"one {noun} only: no interval"
    text[n_vox == 0] = EMPTY[denominator]
    return text
