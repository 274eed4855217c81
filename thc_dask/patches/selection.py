"""Which patches: balanced between regions, train and test on planes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.patches.planes import Found, largest_um, look, used_planes
from thc_dask.patches.request import Request
from thc_dask.patches.splitting import Division, divide, parts, spread
from thc_dask.progress import Progress

SPLIT, TAKEN, ORDER = 2, 3, 4  # streams of what is drawn here


@dataclass(frozen=True)
class Selection:
    """Patches in the order in which they are numbered, which says nothing of where they are."""

    request: Request
    """With the regions that occur."""
    n: int
    """Of each region."""
    planes: tuple[int, ...]
    """All that were looked at."""
    starts: NDArray[np.int64]
    """First voxels (patch, 3): z, y, x of the level."""
    region: NDArray[np.int64]
    """Which of ``request.names``, (patch,)."""
    test: NDArray[np.bool_]
    """Whether it is for testing, (patch,)."""


def select(request: Request, progress: Progress | None = None) -> Selection:
    """Return the patches; reads the label set on the planes that are used.

    Raises
    ------
    RequestError
        A patch of that size fits nowhere, there are too few, or train and test cannot lie apart.
    """
    planes = used_planes(request)
    _check_planes(request, planes)
    found = look(request, planes, progress)
    request = _occurring(request, found)
    n_regions, numbers = len(request.chosen), _numbers(request, found)
    capacity = np.array([[f.capacity(k) for f in found] for k in numbers], np.int64)
    _check_room(request, planes, capacity)
    division = divide(capacity, request.test, request.n, request.rng(SPLIT))
    n = division.n if request.n is None else request.n
    _check_number(request, planes, capacity, division, n)
    rows = []
    for region, number in enumerate(numbers):
        for test, wanted in zip((False, True), parts(n, request.test), strict=True):
            rng = request.rng(TAKEN, region, int(test))
            here = np.flatnonzero(division.test == test)
            given = spread(capacity[region, here], wanted, rng)
            for i, k in zip(here, given, strict=True):
                starts = found[i].take(number, int(k), rng)
                rows += [(found[i].plane, y, x, region, test) for y, x in starts.tolist()]
    table = np.array(rows, np.int64).reshape(n * n_regions, 5)
    table = request.rng(ORDER).permutation(table)
    return Selection(request, n, tuple(planes), table[:, :3], table[:, 3], table[:, 4].astype(bool))


def _numbers(request: Request, found: Sequence[Found]) -> list[int]:
    """Return the numbers of the regions that are left."""
    total = _totals(found)
    every = range(1, len(total))
    return list(every) if request.named else [k for k in every if total[k]]


def _totals(found: Sequence[Found]) -> NDArray[np.int64]:
    total: NDArray[np.int64] = np.sum([f.n_vox for f in found], axis=0)
    return total


def _occurring(request: Request, found: Sequence[Found]) -> Request:
    """Return the request without regions that do not occur; RequestError if one was named."""
    total = _totals(found)[1:]
    lacking = [name for name, n in zip(request.names, total, strict=True) if not n]
    where = f"on the {len(found)} planes looked at ({_span(request, [f.plane for f in found])})"
    if len(lacking) == len(request.names):
        raise RequestError(
            f"label set {request.labels.name!r} has no voxel of {', '.join(lacking)} {where}"
        )
    if lacking and request.named:
        raise RequestError(
            f"no voxel of {', '.join(lacking)} in label set {request.labels.name!r} {where}; leave "
            "it out of --regions, or give a smaller --margin to look at more planes"
        )
    chosen = tuple(i for i, n in zip(request.chosen, total, strict=True) if n)
    return replace(request, chosen=chosen)


def _check_planes(request: Request, planes: Sequence[int]) -> None:
    """Raise RequestError where there are too few planes for what is asked."""
    if not planes:
        raise RequestError(f"label set {request.labels.name!r} is known nowhere: no patches")
    if request.test and len(planes) < 2:
        raise RequestError(
            "train and test cannot lie apart: there is one plane only, "
            f"{_span(request, planes)}, at a margin of {request.margin_um:g} um; give --test 0, a "
            "smaller --margin, or annotate more planes"
        )


def _span(request: Request, planes: Sequence[int]) -> str:
    z = request.grid.coordinates(0)
    ends = f"z = {z[planes[0]]:g} um"
    return ends if len(planes) == 1 else f"{ends} to {z[planes[-1]]:g} um"


def _check_room(request: Request, planes: Sequence[int], capacity: NDArray[np.int64]) -> None:
    """Raise RequestError where a region holds no patch; it names sizes that would fit."""
    if capacity.any(axis=1).all():
        return
    largest = dict(zip(request.names, largest_um(request, planes), strict=True))
    sizes = ", ".join(f"{name} {um:.6g} um" for name, um in largest.items())
    for_all = min(largest.values())
    smaller = f"--size {for_all:.6g}um, which fits all" if for_all else "a smaller --size"
    without = [name for name, n in zip(request.names, capacity.sum(axis=1), strict=True) if not n]
    rest = [name for name in request.names if name not in without]
    choose = f", or leave some out: --regions {','.join(rest)}" if rest else ""
    what = ", ".join(without) if rest else "any region"
    raise RequestError(
        f"no patch of {request.size_um:g} um lies wholly inside {what}; the largest that would, up "
        f"to that size: {sizes}; give {smaller}, merge regions (--merge VP=TRN,VP){choose}"
    )


def _check_number(
    request: Request, planes: Sequence[int], capacity: NDArray[np.int64], division: Division, n: int
) -> None:
    """Raise RequestError where there are too few patches, or they cannot be divided."""
    if n and n <= division.n:
        return
    totals = dict(zip(request.names, capacity.sum(axis=1).tolist(), strict=True))
    counts = ", ".join(f"{name} {k}" for name, k in totals.items())
    short = [name for name, k in totals.items() if k < n]
    if short:
        fewest = division.n
        remedy = f"-n {fewest} is the most for all alike; " if fewest else ""
        raise RequestError(
            f"{', '.join(short)}: fewer than {n} patches of {request.size_um:g} um that do not "
            f"overlap; there are: {counts}; {remedy}without -n as many are drawn as all regions "
            "have; or give a smaller --size or --margin, or leave regions out (--regions)"
        )
    alone = [name for name, row in zip(request.names, capacity, strict=True) if (row > 0).sum() < 2]
    where = _span(request, planes)
    if alone:
        raise RequestError(
            f"train and test cannot lie apart: {', '.join(alone)} has patches on one plane only of "
            f"{len(planes)} ({where}); give --test 0 or a smaller --margin, or leave it out "
            "(--regions)"
        )
    raise RequestError(
        f"{n or 2} patches of each region cannot be divided with --test {request.test:g} so that "
        f"train and test share none of the {len(planes)} planes ({where}); the most is "
        f"-n {division.n}; there are in all: {counts}; give fewer, another --test or a smaller "
        "--margin"
    )
