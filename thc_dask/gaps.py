"""What lies between annotated planes: decided from known extents alone.

A column of voxels is known on some planes; where those touch they are one run. Between two runs
is a gap, and the planes on either side of it bracket it. Columns with the same runs go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from thc_dask.grid import Extent

Run = tuple[int, int]
"""Planes that are known and touch: the first, and one past the last."""


@dataclass(frozen=True)
class Gap:
    """Voxels that lie between two planes which are known where they are."""

    below: int
    """The plane before the first of them."""
    above: int
    """The plane after the last of them."""
    boxes: tuple[Extent, ...]
    """The voxels: boxes that do not overlap, all of the same planes."""

    @property
    def planes(self) -> range:
        """The planes to be filled."""
        return range(self.boxes[0].start[0], self.boxes[0].stop[0])

    @property
    def sample(self) -> list[int]:
        """The first, the middle and the last of them."""
        return sorted({self.planes[i] for i in (0, len(self.planes) // 2, -1)})


def gaps(extents: Sequence[Extent]) -> list[Gap]:
    """Return what known planes bracket, from the first plane on.

    >>> planes = [Extent((z, 0, 0), (z + 1, 4, 4)) for z in (2, 5, 6, 9)]
    >>> [(gap.below, gap.above, list(gap.planes)) for gap in gaps(planes)]
    [(2, 5, [3, 4]), (6, 9, [7, 8])]
    """
    return _gathered(
        (a[1] - 1, b[0], (a[1], b[0]), rectangle)
        for rectangle, runs in _columns(extents)
        for a, b in pairwise(runs)
    )


def held_out(extents: Sequence[Extent]) -> list[Gap]:
    """Return the inner runs of known planes as gaps between their neighbours.

    Planes that touch go together: one would give away the other.

    >>> planes = [Extent((z, 0, 0), (z + 1, 4, 4)) for z in (2, 5, 6, 9)]
    >>> [(gap.below, gap.above, list(gap.planes)) for gap in held_out(planes)]
    [(2, 9, [5, 6])]
    """
    return _gathered(
        (runs[i - 1][1] - 1, runs[i + 1][0], runs[i], rectangle)
        for rectangle, runs in _columns(extents)
        for i in range(1, len(runs) - 1)
    )


def _gathered(found: Iterable[tuple[int, int, Run, Extent]]) -> list[Gap]:
    """Return one gap for all columns with the same planes on either side and between."""
    boxes: dict[tuple[int, int, Run], list[Extent]] = {}
    for below, above, (start, stop), rectangle in found:
        box = Extent((start, *rectangle.start[1:]), (stop, *rectangle.stop[1:]))
        boxes.setdefault((below, above, (start, stop)), []).append(box)
    return [
        Gap(below, above, tuple(boxes[key])) for key in sorted(boxes) for below, above, _ in [key]
    ]


def _columns(extents: Sequence[Extent]) -> Iterator[tuple[Extent, list[Run]]]:
    """Yield rectangles of columns (as boxes one plane deep) with the runs they are known on."""
    starts = sorted({edge for e in extents for edge in (e.start[1], e.stop[1])})
    for y0, y1 in pairwise(starts):
        here = [e for e in extents if e.start[1] <= y0 and y1 <= e.stop[1]]
        edges = sorted({edge for e in here for edge in (e.start[2], e.stop[2])})
        row: list[tuple[int, int, list[Run]]] = []
        for x0, x1 in pairwise(edges):
            runs = _runs((e.start[0], e.stop[0]) for e in here if e.start[2] <= x0 < e.stop[2])
            if row and row[-1][1:] == (x0, runs):
                row[-1] = (row[-1][0], x1, runs)
            elif runs:
                row.append((x0, x1, runs))
        for x0, x1, runs in row:
            yield Extent((0, y0, x0), (1, y1, x1)), runs


def _runs(ranges: Iterable[Run]) -> list[Run]:
    """Return ranges of planes joined where they touch or overlap, rising."""
    runs: list[Run] = []
    for start, stop in sorted(ranges):
        if runs and start <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], stop))
        else:
            runs.append((start, stop))
    return runs


def piled(boxes: Iterable[Extent]) -> list[Extent]:
    """Return boxes that do not overlap with those of the same columns joined where they touch.

    >>> [str(e) for e in piled([Extent((3, 0, 0), (5, 4, 8)), Extent((2, 0, 0), (3, 4, 8))])]
    ['2:5,0:4,0:8']
    """
    columns: dict[tuple[Run, Run], list[Run]] = {}
    for box in boxes:
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        columns.setdefault(((y0, x0), (y1, x1)), []).append((z0, z1))
    found = [
        Extent((z0, *start), (z1, *stop))
        for (start, stop), ranges in columns.items()
        for z0, z1 in _runs(ranges)
    ]
    return sorted(found, key=lambda e: e.start)


def without_tiles(
    boxes: Sequence[Extent], tiles: Iterable[tuple[int, int]], side: int
) -> list[Extent]:
    """Return boxes without the columns of tiles ``(y, x)`` of ``side`` voxels.

    >>> [str(e) for e in without_tiles([Extent((3, 0, 0), (5, 4, 8))], [(0, 1)], 4)]
    ['3:5,0:4,0:4']
    """
    rows: dict[int, list[int]] = {}
    for y, x in sorted(set(tiles)):
        rows.setdefault(y, []).append(x)
    found: list[Extent] = []
    for box in boxes:
        edges = {box.start[1], box.stop[1]}
        edges |= {
            e for y in rows for e in (y * side, (y + 1) * side) if box.start[1] < e < box.stop[1]
        }
        open_: dict[Run, Extent] = {}  # what the row above ends with, by its columns
        for y0, y1 in pairwise(sorted(edges)):
            spans = _free(box.start[2], box.stop[2], rows.get(y0 // side, []), side)
            grown = {}
            for x0, x1 in spans:
                top = open_.pop((x0, x1), None)
                start = y0 if top is None else top.start[1]
                grown[x0, x1] = Extent((box.start[0], start, x0), (box.stop[0], y1, x1))
            found += open_.values()
            open_ = grown
        found += open_.values()
    return sorted(found, key=lambda e: e.start)


def _free(start: int, stop: int, tiles: Sequence[int], side: int) -> list[Run]:
    """Return what of a row is not in one of its tiles."""
    spans, at = [], start
    for x in tiles:
        if at < x * side:
            spans.append((at, min(x * side, stop)))
        at = max(at, (x + 1) * side)
        if at >= stop:
            break
    if at < stop:
        spans.append((at, stop))
    return [span for span in spans if span[0] < span[1]]
