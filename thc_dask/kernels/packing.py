"""Windows that do not overlap, chosen among those that may be: at random, or as many as go in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
Starts = dict[int, NDArray[np.int64]]
"""First voxels (window, 2), y and x, of the windows of each number."""


def scattered(windows: NDArray[Any], size: Size, rng: np.random.Generator) -> Starts:
    """Return windows drawn one after the other, each evenly among those that are still free.

    The first k of a number are k windows drawn at random; drawing ends when no other goes in.

    Parameters
    ----------
    windows
        (y, x) as ``uniform_windows`` gives it: the number of each window, 0 where there is none.
        Windows of different numbers never overlap.
    size
        Voxels of a window (y, x).
    rng
        What draws.

    Examples
    --------
    >>> found = scattered(np.ones((1, 5), np.uint8), (1, 2), np.random.default_rng(0))
    >>> len(found[1]) in (2, 3)
    True
    """
    free = windows.copy()
    left = np.count_nonzero(free, axis=1)
    found: dict[int, list[tuple[int, int]]] = {}
    while total := int(left.sum()):
        sums = np.cumsum(left)
        nth = int(rng.integers(total))
        y = int(np.searchsorted(sums, nth, side="right"))
        x = int(np.flatnonzero(free[y])[nth - (sums[y] - left[y])])
        found.setdefault(int(free[y, x]), []).append((y, x))
        rows, taken = _taken(y, x, size)
        left[rows] -= np.count_nonzero(free[rows, taken], axis=1)
        free[rows, taken] = 0
    return _arrays(found)


def packed(windows: NDArray[Any], size: Size) -> Starts:
    """Return windows packed row by row from the left, each as soon as it goes in.

    In a rectangle these are as many as there can be; elsewhere nearly so.

    Parameters
    ----------
    windows, size
        As ``scattered`` takes them.

    Examples
    --------
    >>> packed(np.ones((2, 5), np.uint8), (2, 2))[1].tolist()
    [[0, 0], [0, 2], [0, 4]]
    """
    free = windows.copy()
    found: dict[int, list[tuple[int, int]]] = {}
    for y in range(free.shape[0]):
        columns = np.flatnonzero(free[y])
        i = 0
        while i < len(columns):
            x = int(columns[i])
            found.setdefault(int(free[y, x]), []).append((y, x))
            free[_taken(y, x, size)] = 0
            i = int(np.searchsorted(columns, x + size[1]))
    return _arrays(found)


def _taken(y: int, x: int, size: Size) -> tuple[slice, slice]:
    """Return the windows that overlap with one."""
    height, width = size
    return slice(max(0, y - height + 1), y + height), slice(max(0, x - width + 1), x + width)


def _arrays(found: dict[int, list[tuple[int, int]]]) -> Starts:
    return {number: np.array(found[number], np.int64) for number in sorted(found)}
