"""Grey levels of a source in 8 bit: choose the window, and say what it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.errors import RequestError
from thc_dask.grid import Extent, blocks
from thc_dask.kernels.intensity import (
    N_STEPS,
    Window,
    counts_inside,
    counts_of,
    find_inside,
    find_window,
    is_narrow,
    n_bins,
)
from thc_dask.progress import Progress, Standing, tell
from thc_dask.reader import Reader, pieces, unit_bytes

TASK_VOX = 2**26  # so that what a task costs besides counting is little
ROUGH = 2**6  # a window that is this much narrower than the one it is in has few steps of that
STEP = "grey levels"  # as progress calls it
AUTO = (0.1, 99.9)
"""Percentiles of ``auto``: one voxel in a thousand is clipped at each end."""
RULE = (
    "rint(255 * (v - low) / (high - low)) in float64, halves to even; below low, -inf and NaN "
    "become 0, above high and +inf 255"
)


@dataclass(frozen=True)
class _Counting:
    """Count the grey levels of one block, wherever it runs."""

    reader: Reader

    def __call__(self, extent: Extent) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        parts = (countable(part) for _, part in pieces(self.reader, self.reader.unit, extent))
        return counts_of(parts, counted_as(self.reader.dtype))


def countable(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return uint16 as it is and everything else as float32."""
    if voxels.dtype == np.uint8:
        return voxels.astype(np.uint16)
    return voxels if voxels.dtype == np.uint16 else voxels.astype(np.float32, copy=False)


def counted_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that ``countable`` makes of a type."""
    return np.dtype(np.uint16 if dtype in (np.uint8, np.uint16) else np.float32)


def global_counts(reader: Reader, progress: Progress | None = None) -> NDArray[np.int64]:
    """Return how many voxels of a source fall into each bin of ``kernels.intensity``; one pass."""
    itemsize, n_vox, done = reader.dtype.itemsize, reader.grid.n_vox, 0
    tell(progress, Standing(0, n_vox, read_bytes=0, step=STEP))
    table = np.zeros(n_bins(counted_as(reader.dtype)), np.int64)
    slabs = _slabs(reader)
    named = "the source, voxels {}".format
    for filled, counts in schedule.run(_Counting(reader), slabs, what=named, verb="window"):
        table[filled] += counts
        done += int(counts.sum())
        tell(progress, Standing(done, n_vox, read_bytes=done * itemsize, step=STEP))
    return table


@dataclass(frozen=True)
class _Inside:
    """Count the grey levels of one block by equal steps of a window, wherever it runs."""

    reader: Reader
    window: Window

    def __call__(self, extent: Extent) -> NDArray[np.int64]:
        parts = (part for _, part in pieces(self.reader, self.reader.unit, extent))
        return counts_inside(parts, self.window)


def _finer(
    reader: Reader, window: Window, low: float, high: float, progress: Progress | None
) -> Window:
    """Return the window between two percentiles, found inside a wider one; a pass or a few."""
    found = window
    while True:
        inner = find_inside(found, _steps(reader, found, progress), low, high)
        if inner is None:  # all voxels are equal, as far as can be told
            return window
        is_rough = (inner.high - inner.low) * ROUGH < found.high - found.low
        found = inner
        if not is_rough:
            return found


def _steps(reader: Reader, window: Window, progress: Progress | None) -> NDArray[np.int64]:
    """Return the counts of ``counts_inside`` for a whole source; one more pass."""
    itemsize, n_vox, done = reader.dtype.itemsize, reader.grid.n_vox, 0
    found = np.zeros(N_STEPS + 2, np.int64)
    slabs = list(_slabs(reader))
    named = "the source, voxels {}".format
    counted = schedule.run(_Inside(reader, window), slabs, what=named, verb="window")
    for slab, counts in zip(slabs, counted, strict=True):
        found += counts
        done += slab.n_vox
        tell(progress, Standing(done, n_vox, read_bytes=done * itemsize, step=STEP))
    return found


def counting_bytes(reader: Reader, threads: int) -> int:
    """Return what threads hold, at most, that count large units of a source; else 0.

    Each has a unit as it is stored, which is no more than its voxels, decoded, as it was asked for,
    and as it is counted.
    """
    n_bytes = unit_bytes(reader)
    counted = counted_as(reader.dtype)
    each = 3 * n_bytes
    if counted != reader.dtype:
        each += n_bytes // reader.dtype.itemsize * counted.itemsize
    return min(threads, len(list(_slabs(reader)))) * each if n_bytes else 0


def _slabs(reader: Reader) -> Iterator[Extent]:
    """Yield boxes of whole units, one for each task; what a task holds are pieces of them."""
    shape, unit = reader.grid.shape, reader.unit
    size = list(unit)
    for axis in (2, 1, 0):  # grow along x first: rows are what files hold
        around = int(np.prod(size)) // size[axis]
        fit = max(1, TASK_VOX // (around * unit[axis])) * unit[axis]
        size[axis] = min(-(-shape[axis] // unit[axis]) * unit[axis], max(size[axis], fit))
    return iter(blocks(shape, size))


@dataclass(frozen=True)
class Normalisation:
    """A window and how it was chosen."""

    window: Window
    chosen: str
    """``given``, or which percentiles of all voxels."""
    source_dtype: str

    def record(self) -> dict[str, Any]:
        """Return what the store keeps: the window, the rule and its inverse."""
        low, high = self.window.low, self.window.high
        return {
            "window": [low, high],
            "chosen": self.chosen,
            "source_dtype": self.source_dtype,
            "rule": RULE,
            "inverse": "low + k * (high - low) / 255",
        }


def normalise(reader: Reader, text: str, progress: Progress | None = None) -> Normalisation:
    """Return the window that ``--window`` asks for.

    ``LOW:HIGH`` are grey levels of the source, ``p1:p99`` percentiles of all its finite voxels,
    ``auto`` the percentiles 0.1 and 99.9; those two read the source once to count it, and once more
    where all grey levels are so near one another that bins of 1/2048 do not tell them apart.

    Raises
    ------
    RequestError
        The text is none of these, or no such window exists.
    """
    ends = percentiles(text)
    if ends is None:
        given = parse_window(text)
        assert given is not None
        return Normalisation(Window(*given[1]), "given", reader.dtype.name)
    low, high = ends
    counts = global_counts(reader, progress)
    window = find_window(counts, counted_as(reader.dtype), low, high)
    if counted_as(reader.dtype) == np.float32 and is_narrow(window):
        window = _finer(reader, window, low, high, progress)
    how = f"percentiles {low:g} and {high:g} of all finite voxels"
    return Normalisation(window, how, reader.dtype.name)


def percentiles(text: str) -> tuple[float, float] | None:
    """Return the percentiles of all voxels that a window asks for, None where it is given.

    >>> percentiles("p1:p99"), percentiles("auto"), percentiles("0:255")
    ((1.0, 99.0), (0.1, 99.9), None)
    """
    ends = parse_window(text)
    if ends is None:
        return AUTO
    return ends[1] if ends[0] else None


def parse_window(text: str) -> tuple[bool, tuple[float, float]] | None:
    """Return (whether these are percentiles, the two ends), None for ``auto``.

    >>> parse_window("-0.5:2"), parse_window("p1:p99"), parse_window("auto")
    ((False, (-0.5, 2.0)), (True, (1.0, 99.0)), None)
    """
    if text == "auto":
        return None
    parts = text.split(":")
    percent = all(part.startswith("p") for part in parts)
    try:
        low, high = (float(part.removeprefix("p")) for part in parts)
    except ValueError:
        raise RequestError(
            f"window {text!r}: give LOW:HIGH in grey levels of the source, p0.1:p99.9, or auto"
        ) from None
    if not low < high:
        raise RequestError(f"window {text!r}: the first end must be below the second")
    if percent and not 0 <= low < high <= 100:
        raise RequestError(f"window {text!r}: percentiles go from 0 to 100")
    return percent, (low, high)
