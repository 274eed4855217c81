"""Which windows of a plane lie wholly inside one region, and how large they may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]

BAND_VOX = 2**22  # of a plane that are looked at together: what sums need stays small


def uniform_windows(numbers: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return the number that fills each window, 0 where a window holds several or a 0.

    Exact, by sums over rectangles of where neighbours differ (summed-area tables, Crow 1984,
    SIGGRAPH 18:207): a window is of one number if its rows are, and its first column.

    Parameters
    ----------
    numbers
        Whole numbers (y, x); 0 is what no window may hold.
    size
        Voxels of a window (y, x), at least 1.

    Returns
    -------
    ndarray
        (y, x) of the first voxels of all windows that fit into the plane, in the type of
        ``numbers``; empty where none does.

    Examples
    --------
    >>> plane = np.array([[1, 1, 2, 2], [1, 1, 2, 0], [1, 1, 2, 2]])
    >>> uniform_windows(plane, (2, 2)).tolist()
    [[1, 0, 0], [1, 0, 0]]
    >>> uniform_windows(plane, (3, 1)).tolist()
    [[1, 1, 2, 0]]
    """
    (height, width), (n_y, n_x) = size, numbers.shape
    found = np.zeros((max(0, n_y - height + 1), max(0, n_x - width + 1)), numbers.dtype)
    if not found.size:
        return found
    band = max(height, BAND_VOX // n_x)
    for first in range(0, found.shape[0], band):
        stop = min(first + band, found.shape[0])
        found[first:stop] = _in_band(numbers[first : stop + height - 1], size)
    return found


def _in_band(numbers: NDArray[Any], size: Size) -> NDArray[Any]:
    height, width = size
    n_y, n_x = (n - s + 1 for n, s in zip(numbers.shape, size, strict=True))
    dtype = np.int32 if numbers.size < 2**31 else np.int64
    # Sums of how often neighbours along x differ, up to and without each row and column.
    across = np.zeros((numbers.shape[0] + 1, numbers.shape[1]), dtype)
    across[1:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    np.cumsum(across, axis=1, out=across)
    np.cumsum(across, axis=0, out=across)
    right = slice(width - 1, width - 1 + n_x)
    differ = across[height:, right] - across[:n_y, right]
    differ -= across[height:, :n_x] - across[:n_y, :n_x]
    down = np.zeros((numbers.shape[0], n_x), dtype)
    down[1:] = numbers[1:, :n_x] != numbers[:-1, :n_x]
    np.cumsum(down, axis=0, out=down)
    differ += down[height - 1 :] - down[:n_y]
    return np.where(differ == 0, numbers[:n_y, :n_x], 0).astype(numbers.dtype)


def largest_windows(numbers: NDArray[Any], sizes: Sequence[Size], n: int) -> NDArray[np.int64]:
    """Return which of some sizes is the largest that fits into each number's voxels.

    Parameters
    ----------
    numbers
        Whole numbers (y, x) from 0 to ``n``.
    sizes
        Voxels of windows (y, x), rising: none is smaller along an axis than the one before.
    n
        The largest number.

    Returns
    -------
    ndarray
        int64 (n,): places in ``sizes`` for numbers 1 to ``n``, -1 where not even the first fits.

    Examples
    --------
    >>> plane = np.array([[1, 1, 2], [1, 1, 2], [0, 1, 2]])
    >>> largest_windows(plane, [(1, 1), (2, 2), (3, 3)], 3).tolist()
    [1, 0, -1]
    """
    tried: dict[int, set[int]] = {}

    def fits(i: int, number: int) -> bool:
        if i not in tried:
            tried[i] = set(np.unique(uniform_windows(numbers, sizes[i])).tolist())
        return number in tried[i]

    found = np.full(n, -1, np.int64)
    for number in range(1, n + 1):
        low, high = -1, len(sizes)  # the first fits, the second does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle, number) else (low, middle)
        found[number - 1] = low
    return found
