"""How far distributions are apart: divergences, distances, effect sizes.

Every one takes two tables of shares and compares their last axis; the leading ones broadcast, so
that a thousand resamples cost one call. ``kl_divergence`` and ``jensen_shannon`` take counts and
compare every row with every other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.errors import RequestError
from thc_dask.kernels.statistics.counts import Floats, checked, shares


def kl(p: Floats, q: Floats) -> Floats:
    """Return the Kullback-Leibler divergence of p from q, ``sum(p * ln(p / q))``, in nats.

    >>> kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])).round(3).item()
    0.144
    """
    from scipy.special import rel_entr

    found: Floats = np.maximum(rel_entr(p, q).sum(axis=-1), 0.0)
    return found


def js(p: Floats, q: Floats) -> Floats:
    """Return the Jensen-Shannon divergence, nats, 0 to ln 2: ``(KL(p||m) + KL(q||m)) / 2``.

    >>> js(np.array([1.0, 0.0]), np.array([0.0, 1.0])).round(3).item()
    0.693
    """
    middle = (p + q) / 2
    return np.minimum((kl(p, middle) + kl(q, middle)) / 2, np.log(2.0))


def hellinger(p: Floats, q: Floats) -> Floats:
    """Return the Hellinger distance, 0 to 1: ``sqrt(sum((sqrt p - sqrt q)**2) / 2)``.

    >>> hellinger(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(3).item()
    0.541
    """
    apart: Floats = np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=-1) / 2)
    return np.minimum(apart, 1.0)


def total_variation(p: Floats, q: Floats) -> Floats:
    """Return the total variation distance, 0 to 1: ``sum(|p - q|) / 2``.

    >>> total_variation(np.array([1.0, 0.0]), np.array([0.5, 0.5])).item()
    0.5
    """
    found: Floats = np.minimum(np.abs(p - q).sum(axis=-1) / 2, 1.0)
    return found


def wasserstein(p: Floats, q: Floats) -> Floats:
    """Return the 1-Wasserstein distance in columns (grey levels): ``sum(|cdf p - cdf q|)``.

    >>> wasserstein(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])).item()
    2.0
    """
    moved: Floats = np.abs(np.cumsum(p - q, axis=-1)).sum(axis=-1)
    return moved


def cosine(p: Floats, q: Floats) -> Floats:
    """Return one minus the cosine of the angle between p and q, 0 to 1 for shares.

    >>> cosine(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(3).item()
    0.293
    """
    lengths = np.linalg.norm(p, axis=-1) * np.linalg.norm(q, axis=-1)
    with np.errstate(invalid="ignore"):
        found: Floats = np.clip(1.0 - (p * q).sum(axis=-1) / lengths, 0.0, 1.0)
    return found


def cliffs_delta(p: Floats, q: Floats) -> Floats:
    """Return Cliff's delta of the columns, -1 to 1: ``P(a > b) - P(a < b)``, a of p, b of q.

    From shares it is exact for the voxels they were taken from, all pairs of them (Cliff 1993,
    Psychol. Bull. 114:494); ``2 U / (n m) - 1`` of the Mann-Whitney U.

    >>> cliffs_delta(np.array([0.0, 1.0]), np.array([0.5, 0.5])).item()
    0.5
    """
    up_to = np.cumsum(q, axis=-1)
    below = up_to - q
    above = up_to[..., -1:] - up_to
    found: Floats = np.clip((p * (below - above)).sum(axis=-1), -1.0, 1.0)
    return found


def cohen_h(p: ArrayLike, q: ArrayLike) -> Floats:
    """Return Cohen's h of two fractions: ``2 asin(sqrt p) - 2 asin(sqrt q)``, element by element.

    It lies between -pi and pi; 0.2 is called small, 0.5 medium, 0.8 large (Cohen 1988, Statistical
    Power Analysis, chapter 6).

    >>> cohen_h(0.5, 0.25).round(3).item()
    0.524
    """
    first, second = np.asarray(p, np.float64), np.asarray(q, np.float64)
    return np.asarray(2 * np.arcsin(np.sqrt(first)) - 2 * np.arcsin(np.sqrt(second)))


def mean_difference(p: Floats, q: Floats) -> Floats:
    """Return the difference of the means in columns (grey levels), p's minus q's.

    >>> mean_difference(np.array([0.0, 1.0]), np.array([0.5, 0.5])).item()
    0.5
    """
    found: Floats = (p - q) @ np.arange(p.shape[-1], dtype=np.float64)
    return found


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
    h = checked(counts, ("region", "intensity"))
    check_smoothing(smoothing)
    return pairwise(kl, shares(h, smoothing))


def check_smoothing(smoothing: float) -> None:
    """Raise RequestError for a smoothing that makes no sense."""
    if not (np.isfinite(smoothing) and smoothing >= 0):
        raise RequestError(f"smoothing {smoothing}: give a finite number of counts of at least 0")


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
    return pairwise(js, shares(checked(counts, ("region", "intensity"))))


def cosine_dissimilarity(fractions: ArrayLike) -> Floats:
    """Return one minus the cosine of the angle between every two rows of fractions.

    With the background left out by the caller (and the rest not scaled to sum 1) this is what
    Figure 2E of Prasad et al. 2020 shows, although its caption calls it a Kullback-Leibler
    divergence.

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
    result = pairwise(cosine, table)
    diagonal = np.diag(result)
    np.fill_diagonal(result, np.where(np.isnan(diagonal), np.nan, 0.0))
    return result


def pairwise(measure: Callable[[Floats, Floats], Floats], rows: NDArray[Any]) -> Floats:
    """Return a measure of every row (first) and every other (second), (row, row).

    >>> pairwise(total_variation, np.array([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    # A row at a time: the whole (row, row, column) table would not fit for an atlas.
    found = [measure(row, rows) for row in rows]
    return np.array(found, np.float64).reshape(len(rows), len(rows))
