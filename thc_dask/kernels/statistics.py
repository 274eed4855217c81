"""Count tables to numbers: summaries, divergences between regions, fractions with intervals.

Nothing here touches voxels: every function takes integer counts and costs the same for a slice
and for a brain. Where a region has no counts the answer is NaN, never a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.errors import RequestError

Floats = NDArray[np.float64]

PERCENTILES = (5, 25, 50, 75, 95)

# Resampling weights are made this many at a time, so that memory does not follow the planes.
WEIGHTS_AT_ONCE = 1 << 21


def kl_divergence(counts: ArrayLike, smoothing: float = 1e-6) -> Floats:
    """Return the Kullback-Leibler divergence of every row from every other, in nats.

    ``KL(p || q) = sum(p * ln(p / q))`` with ``p = (h + smoothing) / sum(h + smoothing)``: p is the
    row, q the column of the result, and the two directions differ. With the default smoothing
    this is the computation behind Figure 2D of Prasad et al. 2020 (their notebook; the paper
    itself names neither direction nor smoothing). The value depends on the smoothing wherever q
    has empty bins: name it beside the number.

    Parameters
    ----------
    counts
        Histogram of each region, (region, intensity), whole numbers of at least 0.
    smoothing
        Added to every bin, in counts. With 0 the divergence is infinite where q has an empty bin
        and p has not.

    Returns
    -------
    ndarray
        float64 (region, region), nats, 0 on the diagonal; NaN for a region without counts.

    Raises
    ------
    RequestError
        The counts are not a table of numbers of at least 0, or the smoothing is below 0.

    Examples
    --------
    >>> kl_divergence([[8, 0], [4, 4]], smoothing=0).round(3).tolist()
    [[0.0, 0.693], [inf, 0.0]]
    """
    from scipy.special import rel_entr

    h = _counts(counts, ("region", "intensity"))
    if not (np.isfinite(smoothing) and smoothing >= 0):
        raise RequestError(f"smoothing {smoothing}: give a finite number of counts of at least 0")
    p = _shares(h, smoothing)
    # A row at a time: the whole (region, region, intensity) table would not fit for an atlas.
    rows = [rel_entr(row, p).sum(axis=1) for row in p]
    return np.maximum(np.array(rows, np.float64).reshape(len(p), len(p)), 0.0)


def jensen_shannon(counts: ArrayLike) -> Floats:
    """Return the Jensen-Shannon divergence between every two rows, in nats.

    ``JS(p, q) = (KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2`` (Lin 1991, IEEE Trans.
    Inf. Theory 37:145). It is symmetric, needs no smoothing, and lies between 0 (equal) and
    ``ln 2 = 0.693`` (no common intensity). This is the divergence, not its square root.

    Parameters
    ----------
    counts
        Histogram of each region, (region, intensity), whole numbers of at least 0.

    Returns
    -------
    ndarray
        float64 (region, region), nats; NaN for a region without counts.

    Raises
    ------
    RequestError
        The counts are not a table of numbers of at least 0.

    Examples
    --------
    >>> jensen_shannon([[8, 0], [0, 3]]).round(3).tolist()
    [[0.0, 0.693], [0.693, 0.0]]
    """
    from scipy.special import rel_entr

    p = _shares(_counts(counts, ("region", "intensity")), 0.0)
    rows = []
    for row in p:
        middle = (row + p) / 2
        rows.append((rel_entr(row, middle).sum(axis=1) + rel_entr(p, middle).sum(axis=1)) / 2)
    return np.clip(np.array(rows, np.float64).reshape(len(p), len(p)), 0.0, np.log(2.0))


def cosine_dissimilarity(fractions: ArrayLike) -> Floats:
    """Return one minus the cosine of the angle between every two rows of fractions.

    Rows are scaled to length 1 and compared as ``1 - v @ v.T``. With the background left out by
    the caller (and the rest not scaled to sum 1) this is what Figure 2E of Prasad et al. 2020
    shows, although its caption calls it a Kullback-Leibler divergence.

    Parameters
    ----------
    fractions
        Composition of each region, (region, structure), numbers of at least 0.

    Returns
    -------
    ndarray
        float64 (region, region), 0 (same mixture) to 1 (nothing in common); NaN for a region
        whose fractions are all zero or not known.

    Raises
    ------
    RequestError
        The fractions are not a table of numbers of at least 0.

    Examples
    --------
    >>> cosine_dissimilarity([[0.1, 0.0], [0.2, 0.2]]).round(3).tolist()
    [[0.0, 0.293], [0.293, 0.0]]
    """
    table = np.asarray(fractions, np.float64)
    if table.ndim != 2 or np.any(table < 0):
        raise RequestError(
            f"fractions of shape {table.shape}: give (region, structure), all at least 0"
        )
    length = np.linalg.norm(table, axis=1, keepdims=True)
    v = np.divide(table, length, out=np.full_like(table, np.nan), where=length > 0)
    result: Floats = np.clip(1.0 - v @ v.T, 0.0, 1.0)
    np.fill_diagonal(result, np.where(np.isnan(v).any(axis=1), np.nan, 0.0))
    return result


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
    h = _counts(counts, ("region", "intensity"))
    value = np.arange(h.shape[1], dtype=np.float64)
    n = h.sum(axis=1)
    p = _shares(h, 0.0)
    mean = _ratio((h * value).sum(axis=1), n)
    variance = _ratio((h * (value - mean[:, None]) ** 2).sum(axis=1), n)
    log = np.log2(p, out=np.zeros_like(p), where=p > 0)
    # The sum of -p log p is -0.0 for a region of one intensity; a reader should not see that.
    entropy = np.abs((p * log).sum(axis=1))
    result = {"n": n, "mean": mean, "sd": np.sqrt(variance)}
    result |= {f"p{q}": _percentile(h, n, q) for q in PERCENTILES}
    return result | {"entropy_bits": entropy}


def fractions(counts: ArrayLike) -> Floats:
    """Return the share of each structure among the known voxels of each region.

    Planes are summed before dividing, so a plane weighs what it holds.

    Parameters
    ----------
    counts
        Known voxels by (plane, region, structure), whole numbers of at least 0, including those
        of structure 0 (none of these): the denominator is the sum over structures.

    Returns
    -------
    ndarray
        float64 (region, structure), 0 to 1; NaN for a region without known voxels.

    Raises
    ------
    RequestError
        The counts are not a (plane, region, structure) table of numbers of at least 0.

    Examples
    --------
    >>> fractions([[[6, 2]], [[4, 0]]]).round(3).tolist()
    [[0.833, 0.167]]
    """
    total = _counts(counts, ("plane", "region", "structure")).sum(axis=0)
    return _ratio(total, total.sum(axis=1, keepdims=True))


def bootstrap_fractions(
    counts: ArrayLike, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[Floats, Floats]:
    """Return the ends of a confidence interval for each fraction, by resampling planes.

    Voxels of one plane are alike, so the plane is the unit: of a region's k planes with known
    voxels, k are drawn with replacement, and the fraction is again the sum of counts over the
    sum of totals. The interval is BCa (bias-corrected and accelerated, acceleration from the
    jackknife over planes; Efron 1987, JASA 82:171), or the plain percentile interval where BCa
    is not defined. It speaks of other planes of the same specimen.

    Few planes give intervals that are too narrow. In a simulation (planes of unequal size,
    fractions that vary between planes by 0.09 around 0.2) intervals meant to hold the truth in
    95 % of cases held it in 52 % with 2 planes, 82 % with 5, 89 % with 11, 93 % with 30. A
    structure that no plane shows gets the interval 0 to 0.

    Parameters
    ----------
    counts
        Known voxels by (plane, region, structure), whole numbers of at least 0.
    n_resamples
        How many times the planes are drawn.
    confidence
        Share of such intervals that should hold the true fraction, above 0 and below 1.
    seed
        Fixes the draws. Every region starts from it anew: its interval does not depend on which
        other regions are in the table.

    Returns
    -------
    low, high
        float64 (region, structure) each; ``low <= fractions(counts) <= high``. NaN for a region
        with known voxels in fewer than two planes.

    Raises
    ------
    RequestError
        The counts are not a (plane, region, structure) table of numbers of at least 0, or
        another argument is out of range.

    Examples
    --------
    >>> low, high = bootstrap_fractions([[[90, 10]], [[70, 30]], [[80, 20]]])
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([[0.7, 0.1]], [[0.9, 0.3]])
    """
    table = _counts(counts, ("plane", "region", "structure"))
    if n_resamples < 1:
        raise RequestError(f"n_resamples {n_resamples}: give a whole number of at least 1")
    if seed < 0:
        raise RequestError(f"seed {seed}: give a whole number of at least 0")
    if not 0 < confidence < 1:
        raise RequestError(f"confidence {confidence}: give a number between 0 and 1, like 0.95")
    low = np.full(table.shape[1:], np.nan)
    high = low.copy()
    for r in range(table.shape[1]):
        planes = table[:, r][table[:, r].sum(axis=1) > 0]
        if len(planes) >= 2:
            rng = np.random.default_rng(seed)
            low[r], high[r] = _interval(planes.astype(np.float64), n_resamples, confidence, rng)
    return low, high


def _interval(
    planes: Floats, n_resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return (low, high), each (structure,); counts are (plane, structure), no plane empty."""
    total = planes.sum(axis=0)
    estimate = total / total.sum()
    drawn = np.concatenate([w @ planes for w in _weights(len(planes), n_resamples, rng)])
    resampled = drawn / drawn.sum(axis=1, keepdims=True)
    left_out = total - planes
    jackknife = left_out / left_out.sum(axis=1, keepdims=True)
    levels = _bca_levels(estimate, resampled, jackknife, confidence)
    ends = np.array([np.quantile(resampled[:, s], levels[:, s]) for s in range(len(estimate))])
    return np.minimum(ends[:, 0], estimate), np.maximum(ends[:, 1], estimate)


def _weights(k: int, n_resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each of ``k`` planes is drawn, (resample, plane), in batches."""
    batch = max(1, WEIGHTS_AT_ONCE // k)
    for start in range(0, n_resamples, batch):
        n = min(batch, n_resamples - start)
        cell = rng.integers(k, size=(n, k)) + k * np.arange(n)[:, None]
        yield np.bincount(cell.ravel(), minlength=n * k).reshape(n, k).astype(np.float64)


def _bca_levels(
    estimate: Floats, resampled: Floats, jackknife: Floats, confidence: float
) -> Floats:
    """Return the quantiles of the resampled fractions to take, (2, structure)."""
    from scipy.special import ndtr, ndtri

    # Ties count by half, as in scipy.stats.bootstrap: fractions of few planes are full of them.
    below = ((resampled < estimate).mean(axis=0) + (resampled <= estimate).mean(axis=0)) / 2
    bias = ndtri(below)
    spread = jackknife.mean(axis=0) - jackknife
    scale = (spread**2).sum(axis=0) ** 1.5
    acceleration = _ratio((spread**3).sum(axis=0), 6 * scale)
    plain = np.array([[(1 - confidence) / 2], [(1 + confidence) / 2]])
    defined = np.isfinite(bias) & np.isfinite(acceleration)
    shift = np.where(defined, bias, 0.0) + ndtri(plain)
    shrink = 1 - np.where(defined, acceleration, 0.0) * shift
    defined &= (shrink > 0).all(axis=0)
    with_bias = np.where(defined, bias, 0.0) + shift / np.where(shrink > 0, shrink, 1.0)
    return np.where(defined, ndtr(with_bias), plain)


def _counts(counts: ArrayLike, dims: tuple[str, ...]) -> NDArray[np.int64]:
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


def _shares(h: NDArray[np.int64], smoothing: float) -> Floats:
    """Return each row scaled to sum 1; NaN for rows without counts, smoothed or not."""
    smooth = h + np.float64(smoothing)
    shares = _ratio(smooth, smooth.sum(axis=1, keepdims=True))
    shares[h.sum(axis=1) == 0] = np.nan
    return shares


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """Return ``top / bottom``, NaN where bottom is 0."""
    result = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    np.divide(top, bottom, out=result, where=np.broadcast_to(bottom != 0, result.shape))
    return result


def _percentile(h: NDArray[np.int64], n: NDArray[np.int64], q: int) -> Floats:
    # Whole numbers on both sides: 0.95 * n in floating point is off by one voxel now and then.
    reached = h.cumsum(axis=1) * 100 >= q * n[:, None]
    return np.where(n > 0, reached.argmax(axis=1), np.nan)
