"""Counts to what they come to: mean, spread, percentiles, entropy, fractions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.kernels.statistics.counts import Floats, checked, ratio, shares

PERCENTILES = (5, 25, 50, 75, 95)
UNITS = {
    "mean": "grey levels",
    "sd": "grey levels",
    **{f"p{q}": "grey levels" for q in PERCENTILES},
    "entropy_bits": "bits",
}
"""Of what ``summary_of`` gives, by name."""


def summary(counts: ArrayLike) -> dict[str, NDArray[Any]]:
    """Return size, mean, spread, percentiles and entropy of each region's intensities.

    All are exact properties of the counted voxels, not estimates for other tissue: ``sd`` divides
    by n; a percentile is the smallest intensity that at least that share of the voxels does not
    exceed (``inverted_cdf`` of numpy; always an intensity that occurs).

    Parameters
    ----------
    counts
        Histogram of each region, (region, intensity), whole numbers of at least 0; column i
        counts intensity i.

    Returns
    -------
    dict
        Arrays (region,): ``n`` (int64, voxels), ``mean`` and ``sd`` (float64, grey levels),
        ``p5 p25 p50 p75 p95`` (float64, grey levels), ``entropy_bits`` (float64). NaN, except
        for n, where a region has no counts.

    Raises
    ------
    RequestError
        The counts are not a table of numbers of at least 0.

    Examples
    --------
    >>> result = summary([[0, 3, 0, 1]])
    >>> result["n"].tolist(), result["mean"].tolist(), result["p95"].tolist()
    ([4], [1.5], [3.0])
    """
    h = checked(counts, ("region", "intensity"))
    return {"n": h.sum(axis=1), **summary_of(h)}


def summary_of(h: NDArray[Any]) -> dict[str, Floats]:
    """Return what ``summary`` does, but for n, of whole numbers with any leading dims."""
    value = np.arange(h.shape[-1], dtype=np.float64)
    n = h.sum(axis=-1)
    p = shares(h)
    mean = ratio(h @ value, n)
    spread = (h * (value - mean[..., None]) ** 2).sum(axis=-1)
    log = np.log2(p, out=np.zeros_like(p), where=p > 0)
    # The sum of -p log p is -0.0 for a region of one intensity; a reader should not see that.
    entropy = np.abs((p * log).sum(axis=-1))
    reached = h.cumsum(axis=-1)
    result = {"mean": mean, "sd": np.sqrt(ratio(spread, n))}
    result |= {f"p{q}": _percentile(reached, n, q) for q in PERCENTILES}
    return result | {"entropy_bits": entropy}


def _percentile(reached: NDArray[Any], n: NDArray[Any], q: int) -> Floats:
    # Whole numbers on both sides: 0.95 * n in floating point is off by one voxel now and then.
    enough = reached * 100 >= q * n[..., None]
    return np.where(n > 0, enough.argmax(axis=-1), np.nan)


def fractions(counts: ArrayLike) -> Floats:
    """Return the share of each structure among the voxels of each region.

    Planes are summed before dividing, so a plane weighs what it holds.

    Parameters
    ----------
    counts
        Voxels by (plane, region, structure), whole numbers of at least 0: the denominator is the
        sum over the structures that are given.

    Returns
    -------
    ndarray
        float64 (region, structure), 0 to 1; NaN for a region without voxels.

    Raises
    ------
    RequestError
        The counts are not a (plane, region, structure) table of numbers of at least 0.

    Examples
    --------
    >>> fractions([[[6, 2]], [[4, 0]]]).round(3).tolist()
    [[0.833, 0.167]]
    """
    return shares(checked(counts, ("plane", "region", "structure")).sum(axis=0))
