"""Grey levels: the exact global histogram of any type, the window, 32 or 16 to 8 bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from thc_dask.errors import RequestError

FLOAT_BITS = 20
"""Leading bits of a float32 that make a bin: sign, exponent, 11 of 23 mantissa bits."""

_SHIFT = 32 - FLOAT_BITS
_SOURCE = {t: types.Array(t, 3, "A", readonly=True) for t in (types.float32, types.uint16)}
_U1 = types.Array(types.uint8, 3, "A")
_F8, _I8 = types.float64, types.int64


@njit([types.void(_SOURCE[types.float32], types.int64[::1])], nogil=True, cache=True)
def _count_float32(block: Any, table: Any) -> None:  # pragma: no cover - compiled
    cell = np.empty(1, np.float32)
    bits = cell.view(np.uint32)
    for k in range(block.shape[0]):
        for j in range(block.shape[1]):
            for i in range(block.shape[2]):
                cell[0] = block[k, j, i]
                b = bits[0]
                # Negative floats order backwards: flip all bits of those, the sign of the rest.
                key = ~b if b >> np.uint32(31) else b | np.uint32(0x80000000)
                table[key >> np.uint32(12)] += 1


@njit(
    [
        types.void(s, _F8, _F8, _U1, types.int64[::1])
        for s in (_SOURCE[types.float32], _SOURCE[types.uint16])
    ],
    nogil=True,
    cache=True,
)
def _to_uint8(  # pragma: no cover - compiled
    block: Any, low: float, high: float, out: Any, clipped: Any
) -> None:
    scale = 255.0 / (high - low)
    below, above, nan = 0, 0, 0
    for k in range(block.shape[0]):
        for j in range(block.shape[1]):
            for i in range(block.shape[2]):
                v = np.float64(block[k, j, i])
                if v < low:
                    below += 1
                    out[k, j, i] = 0
                elif v > high:
                    above += 1
                    out[k, j, i] = 255
                elif v >= low:
                    out[k, j, i] = np.uint8(np.rint((v - low) * scale))
                else:
                    nan += 1
                    out[k, j, i] = 0
    clipped[0] += below
    clipped[1] += above
    clipped[2] += nan


@dataclass(frozen=True)
class Window:
    """The grey levels that become 0 and 255; those between are spaced evenly.

    A voxel ``v`` becomes ``rint(255 * (v - low) / (high - low))``, halves to even; below ``low``
    it becomes 0, above ``high`` 255, and NaN 0. The inverse is ``low + k * (high - low) / 255``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise RequestError(f"window {self.low:g}:{self.high:g}: give two numbers, low first")


def n_bins(dtype: np.dtype[Any]) -> int:
    """Return how many bins ``add_counts`` needs for a type: float32 or uint16."""
    return 1 << FLOAT_BITS if dtype == np.float32 else 1 << 16


def add_counts(block: NDArray[Any], table: NDArray[np.int64]) -> None:
    """Add to ``table`` how many voxels fall into each bin; exact, for any range of values.

    uint16 values are their own bins. float32 values go by their leading 20 bits in the order of
    the numbers, so a bin is 1/2048 of its values wide; infinities and NaN have bins of their own
    at the ends.

    Parameters
    ----------
    block
        (z, y, x), float32 or uint16.
    table
        int64, ``n_bins`` long; added to in place.

    Examples
    --------
    >>> table = np.zeros(n_bins(np.dtype(np.float32)), np.int64)
    >>> add_counts(np.full((1, 1, 3), 0.5, np.float32), table)
    >>> low, high = bin_edges(np.flatnonzero(table), np.dtype(np.float32))
    >>> low.tolist(), table.sum()
    ([0.5], np.int64(3))
    """
    if block.dtype == np.float32:
        _count_float32(block, table)
    else:
        table += np.bincount(block.ravel(), minlength=len(table))


def bin_edges(
    index: NDArray[Any], dtype: np.dtype[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest value of each bin, float64."""
    if dtype != np.float32:
        return index.astype(np.float64), index.astype(np.float64)
    first = index.astype(np.uint32) << np.uint32(_SHIFT)
    ends = np.stack([first, first | np.uint32((1 << _SHIFT) - 1)])
    bits = np.where(ends >> np.uint32(31), ends ^ np.uint32(0x80000000), ~ends)
    with np.errstate(invalid="ignore"):  # some bins are of signalling NaN
        low, high = np.ascontiguousarray(bits).view(np.float32).astype(np.float64)
    return low, high


def find_window(
    table: NDArray[np.int64], dtype: np.dtype[Any], low: float = 0.1, high: float = 99.9
) -> Window:
    """Return the window between two percentiles of the finite voxels, on edges of bins.

    No more than ``low`` per cent of the voxels lie below it and no more than ``100 - high`` above.

    Raises
    ------
    RequestError
        No voxel is finite, all have one value, or the percentiles are the wrong way round.
    """
    if not 0 <= low < high <= 100:
        raise RequestError(f"window percentiles {low:g}, {high:g}: give 0 <= low < high <= 100")
    filled = np.flatnonzero(table)
    starts, stops = bin_edges(filled, dtype)
    finite = np.isfinite(starts) & np.isfinite(stops)
    filled, starts, stops = filled[finite], starts[finite], stops[finite]
    if not len(filled):
        raise RequestError("window: no voxel has a finite value; give --window LOW:HIGH")
    below = np.cumsum(table[filled])
    n = below[-1]
    first = int(np.searchsorted(below, n * low / 100, side="right"))
    last = int(np.searchsorted(below, n * high / 100, side="left"))
    window = starts[min(first, len(filled) - 1)], stops[min(last, len(filled) - 1)]
    if not window[0] < window[1]:
        raise RequestError(
            f"window: all voxels are near {window[0]:g}; give --window LOW:HIGH around it"
        )
    return Window(float(window[0]), float(window[1]))


def to_uint8(
    block: NDArray[Any], window: Window, out: NDArray[np.uint8], clipped: NDArray[np.int64]
) -> None:
    """Write a block as 8 bit through a window; count what is clipped.

    Parameters
    ----------
    block
        (z, y, x), float32 or uint16.
    window
        What becomes 0 and 255.
    out
        (z, y, x) uint8.
    clipped
        int64 (3,): voxels below, above, NaN; added to in place.

    Examples
    --------
    >>> out, clipped = np.empty((1, 1, 3), np.uint8), np.zeros(3, np.int64)
    >>> block = np.array([[[-1.0, 0.5, np.nan]]], np.float32)
    >>> to_uint8(block, Window(0.0, 1.0), out, clipped)
    >>> out.tolist(), clipped.tolist()
    ([[[0, 128, 0]]], [1, 0, 1])
    """
    _to_uint8(block, window.low, window.high, out, clipped)
