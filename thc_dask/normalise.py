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
from thc_dask.kernels.intensity import Window, add_counts, find_window, n_bins
from thc_dask.reader import Reader, read

AUTO = (0.1, 99.9)
"""Percentiles of ``auto``: one voxel in a thousand is clipped at each end."""


@dataclass(frozen=True)
class _Counting:
    """Count the grey levels of one block, wherever it runs."""

    reader: Reader

    def __call__(self, extent: Extent) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        voxels = countable(read(self.reader, extent))
        table = np.zeros(n_bins(voxels.dtype), np.int64)
        add_counts(voxels, table)
        filled = np.flatnonzero(table)
        return filled, table[filled]


def countable(voxels: NDArray[Any]) -> NDArray[Any]:
    """Return uint16 as it is and everything else as float32."""
    if voxels.dtype == np.uint8:
        return voxels.astype(np.uint16)
    return voxels if voxels.dtype == np.uint16 else voxels.astype(np.float32, copy=False)


def global_counts(reader: Reader, memory_bytes: int) -> NDArray[np.int64]:
    """Return how many voxels of a source fall into each bin of ``kernels.intensity``; one pass."""
    dtype = np.dtype(np.uint16 if reader.dtype in (np.uint8, np.uint16) else np.float32)
    table = np.zeros(n_bins(dtype), np.int64)
    for filled, counts in schedule.run(_Counting(reader), _slabs(reader, memory_bytes)):
        table[filled] += counts
    return table


def _slabs(reader: Reader, memory_bytes: int) -> Iterator[Extent]:
    """Yield boxes of whole units, so many that all threads together keep within the memory."""
    shape, unit = reader.grid.shape, reader.unit
    most = max(1, memory_bytes // (2 * 4 * schedule.n_threads() * schedule.IN_FLIGHT_PER_WORKER))
    size = list(unit)
    for axis in (2, 1, 0):  # grow along x first: rows are what files hold
        around = int(np.prod(size)) // size[axis]
        fit = max(1, most // (around * unit[axis])) * unit[axis]
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
            "rule": "rint(255 * (v - low) / (high - low)), halves to even; below low, -inf and NaN "
            "become 0, above high and +inf 255",
            "inverse": "low + k * (high - low) / 255",
        }


def normalise(reader: Reader, text: str, memory_bytes: int) -> Normalisation:
    """Return the window that ``--window`` asks for.

    ``LOW:HIGH`` are grey levels of the source, ``p1:p99`` percentiles of all its finite voxels,
    ``auto`` the percentiles 0.1 and 99.9; those two read the source once to count it.

    Raises
    ------
    RequestError
        The text is none of these, or no such window exists.
    """
    ends = parse_window(text)
    if ends is not None and not ends[0]:
        return Normalisation(Window(*ends[1]), "given", reader.dtype.name)
    low, high = AUTO if ends is None else ends[1]
    dtype = np.dtype(np.uint16 if reader.dtype in (np.uint8, np.uint16) else np.float32)
    window = find_window(global_counts(reader, memory_bytes), dtype, low, high)
    how = f"percentiles {low:g} and {high:g} of all finite voxels"
    return Normalisation(window, how, reader.dtype.name)


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
    if not low < high or (percent and not 0 <= low < high <= 100):
        raise RequestError(f"window {text!r}: the first end must be below the second")
    return percent, (low, high)
