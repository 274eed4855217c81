"""Grey levels: the exact global histogram of any type, the window, 32 or 16 to 8 bit."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.native import load

FLOAT_BITS = 20
"""Leading bits of a float32 that make a bin: sign, exponent, 11 of 23 mantissa bits."""

N_STEPS = 1 << 16
"""Equal parts of a window that is too narrow for bins of floats."""

RUN_VOX = 1 << 22
"""Voxels whose steps are reckoned at a time, in several arrays of 8 bytes each."""

_SHIFT = 32 - FLOAT_BITS
MAPPED = (np.float32, np.float64, np.uint16)
"""Types that ``to_uint8`` takes."""

COMPILED = "thc_dask.kernels.intensity.compiled"


@dataclass(frozen=True)
class Window:
    """The grey levels that become 0 and 255; those between are spaced evenly.

    A voxel ``v`` becomes ``rint(255 * (v - low) / (high - low))`` in float64, halves to even; below
    ``low`` it becomes 0, above ``high`` 255, and NaN 0. The inverse is ``low + k * (high - low) /
    255``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise RequestError(f"window {self.low:g}:{self.high:g}: give two numbers, low first")
        if not np.isfinite(255 * (float(self.high) - float(self.low))):
            raise RequestError(
                f"window {self.low:g}:{self.high:g}: too wide for float64; give ends nearer zero"
            )


def n_bins(dtype: np.dtype[Any]) -> int:
    """Return how many bins ``counts_of`` has for a type: float32 or uint16."""
    return 1 << FLOAT_BITS if dtype == np.float32 else 1 << 16


class _Scratch(threading.local):
    """What each thread counts floats in; zero between calls."""

    def __init__(self) -> None:
        self.by_bits = np.zeros(1 << FLOAT_BITS, np.uint32)


_scratch = _Scratch()


def counts_of(
    parts: Iterable[NDArray[Any]], dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which bins hold voxels, and how many each; exact, for any range of values.

    uint16 values are their own bins. float32 values go by their leading 20 bits in the order of
    the numbers, so a bin is 1/2048 of its values wide; infinities and NaN have bins of their own
    at the ends.

    Parameters
    ----------
    parts
        (z, y, x) blocks of ``dtype``; fewer than 2**32 voxels in all.
    dtype
        float32 or uint16.

    Returns
    -------
    numpy.ndarray
        int64, bins that are not empty, rising, below ``n_bins(dtype)``.
    numpy.ndarray
        int64, the voxels in each.

    Examples
    --------
    >>> bins, n = counts_of([np.full((1, 1, 3), 0.5, np.float32)], np.dtype(np.float32))
    >>> low, high = bin_edges(bins, np.dtype(np.float32))
    >>> low.tolist(), n.tolist()
    ([0.5], [3])
    """
    if dtype != np.float32:
        table = np.zeros(n_bins(dtype), np.int64)
        for part in parts:
            table += np.bincount(part.ravel(), minlength=len(table))
        filled = np.flatnonzero(table)
        return filled, table[filled]
    by_bits = _scratch.by_bits
    count_bits = load(COMPILED)["count_bits"]
    try:
        for part in parts:
            voxels = np.ascontiguousarray(part, np.float32)
            count_bits(voxels.ctypes.data, voxels.size, _SHIFT, by_bits.ctypes.data)
        filled = np.flatnonzero(by_bits)
        counts = by_bits[filled].astype(np.int64)
    except BaseException:
        by_bits[...] = 0
        raise
    by_bits[filled] = 0
    # The bits of negative numbers come last, and backwards.
    half = len(by_bits) // 2
    first = int(np.searchsorted(filled, half))
    negative = len(by_bits) - 1 - filled[first:][::-1]
    bins = np.concatenate([negative, half + filled[:first]])
    return bins, np.concatenate([counts[first:][::-1], counts[:first]])


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


def is_narrow(window: Window) -> bool:
    """Return whether a window is so far from zero that it spans fewer than 256 bins of floats.

    >>> is_narrow(Window(1000.0, 1001.0)), is_narrow(Window(-1.0, 1.0)), is_narrow(Window(0.5, 1.0))
    (True, False, False)
    """
    ends = sorted((abs(window.low), abs(window.high)))
    return window.low * window.high > 0 and ends[1] < ends[0] * 2 ** (256 / (1 << FLOAT_BITS - 9))


def counts_inside(parts: Iterable[NDArray[Any]], window: Window) -> NDArray[np.int64]:
    """Return how many voxels fall into each of ``N_STEPS`` equal steps of a window.

    The first count is of those below the window, the last of those above; NaN and infinities are
    left out.

    >>> found = counts_inside([np.array([[[1.0, 2.0, 2.5, np.nan, 9.0]]])], Window(2.0, 3.0))
    >>> np.flatnonzero(found).tolist() == [0, 1, 1 + N_STEPS // 2, N_STEPS + 1]
    True
    """
    found = np.zeros(N_STEPS + 2, np.int64)
    low, high = window.low, window.high
    for part in parts:
        flat = part.ravel()
        for first in range(0, flat.size, RUN_VOX):
            voxels = flat[first : first + RUN_VOX].astype(np.float64)
            voxels = voxels[np.isfinite(voxels)]
            inside = voxels[(voxels >= low) & (voxels <= high)]
            step = ((inside - low) * (N_STEPS / (high - low))).astype(np.int64)
            found[1:-1] += np.bincount(np.minimum(step, N_STEPS - 1), minlength=N_STEPS)
            found[0] += np.count_nonzero(voxels < low)
            found[-1] += np.count_nonzero(voxels > high)
    return found


def find_inside(
    window: Window, counts: NDArray[np.int64], low: float, high: float
) -> Window | None:
    """Return the window between two percentiles, from ``counts_inside``; as ``find_window``.

    None where it would be too narrow for numbers.
    """
    below = np.cumsum(counts)
    first = int(np.searchsorted(below, below[-1] * low / 100, side="right"))
    last = int(np.searchsorted(below, below[-1] * high / 100, side="left"))
    edges = np.linspace(window.low, window.high, N_STEPS + 1)
    start = float(edges[min(max(first, 1), N_STEPS) - 1])
    stop = float(edges[min(max(last, 1), N_STEPS)])
    is_fine = stop - start > max(abs(start), abs(stop)) * np.finfo(np.float64).eps * 4
    return Window(start, stop) if is_fine else None


def to_uint8(
    block: NDArray[Any], window: Window, out: NDArray[np.uint8], clipped: NDArray[np.int64]
) -> None:
    """Write a block as 8 bit through a window; count what is clipped.

    Parameters
    ----------
    block
        (z, y, x), of one of the types ``MAPPED``.
    window
        What becomes 0 and 255.
    out
        (z, y, x) uint8.
    clipped
        int64 (5,): voxels below, above, NaN, and of those below and above the infinite ones; added
        to in place.

    Examples
    --------
    >>> out, clipped = np.empty((1, 1, 3), np.uint8), np.zeros(5, np.int64)
    >>> block = np.array([[[-1.0, 0.5, np.nan]]], np.float32)
    >>> to_uint8(block, Window(0.0, 1.0), out, clipped)
    >>> out.tolist(), clipped.tolist()
    ([[[0, 128, 0]]], [1, 0, 1, 0, 0])
    """
    if block.dtype not in MAPPED or block.shape != out.shape:
        raise TypeError(f"{block.dtype} {block.shape} to 8 bit {out.shape}")
    if clipped.dtype != np.int64 or clipped.shape != (5,) or not clipped.flags.c_contiguous:
        raise TypeError(f"clipped: {clipped.dtype} {clipped.shape}")
    voxels, ends = np.ascontiguousarray(block), np.array([window.low, window.high], np.float64)
    packed = out if out.flags.c_contiguous else np.empty(out.shape, np.uint8)
    load(COMPILED)[f"{block.dtype.name}_to_uint8"](
        voxels.ctypes.data, voxels.size, ends.ctypes.data, packed.ctypes.data, clipped.ctypes.data
    )
    if packed is not out:
        out[...] = packed
