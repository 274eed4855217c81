"""What all statistics begin with: counts that are whole numbers, and shares of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.errors import RequestError

Floats = NDArray[np.float64]


def checked(counts: ArrayLike, dims: tuple[str, ...]) -> NDArray[np.int64]:
    """Return counts as int64; RequestError says what is wrong with them.

    >>> checked([[3.0, 1.0]], ("region", "intensity")).tolist()
    [[3, 1]]
    """
    table = np.asarray(counts)
    names = ", ".join(dims)
    if table.ndim != len(dims) or table.shape[-1] == 0:
        raise RequestError(f"counts of shape {table.shape}: give a ({names}) table")
    if table.dtype.kind in "biuf":
        with np.errstate(invalid="ignore"):  # NaN becomes some whole number, and then differs
            whole = table.astype(np.int64)
        if np.array_equal(whole, table) and not np.any(whole < 0):
            return whole
    raise RequestError(f"counts by ({names}): give whole numbers of at least 0")


def shares(h: NDArray[Any], smoothing: float = 0.0) -> Floats:
    """Return counts (..., column) scaled to sum 1; NaN where there are none, smoothed or not.

    >>> shares(np.array([[3, 1], [0, 0]])).tolist()
    [[0.75, 0.25], [nan, nan]]
    """
    smooth = h + np.float64(smoothing)
    found = ratio(smooth, smooth.sum(axis=-1, keepdims=True))
    found[h.sum(axis=-1) == 0] = np.nan
    return found


def ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """Return ``top / bottom``, NaN where bottom is 0."""
    result = np.full(np.broadcast_shapes(np.shape(top), np.shape(bottom)), np.nan)
    np.divide(top, bottom, out=result, where=np.broadcast_to(bottom != 0, result.shape))
    return result
