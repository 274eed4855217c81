"""Codes of answers to scores: confusions, kappa, alpha, and their intervals over items.

Codes count from 0; -1 is no answer. Every function takes any number of leading dimensions, so
that a thousand resamples cost one call. Where a score is not defined it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.draws import check_draws
from thc_dask.errors import RequestError

Floats = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]

STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""A p value below the first stands as the second: the notation of Figure 3C of the paper."""

UNDEFINED = "not defined here"
ALONE = "one item bears on it: no interval"
ALIKE = "all draws are alike: no interval"
EXACT = "all draws are alike: exact interval (Clopper-Pearson)"


def confusions(key: ArrayLike, answer: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return how often each class was answered as each other.

    Parameters
    ----------
    key, answer
        Codes with dims (..., item). Items without a key are left out.
    n_classes
        Codes are below this.

    Returns
    -------
    ndarray
        int64 (..., class, answer); the last column, ``n_classes``, counts items without answer.

    Examples
    --------
    >>> confusions([0, 0, 1], [0, 1, -1], 2).tolist()
    [[1, 1, 0], [0, 0, 1]]
    """
    truth, said = np.broadcast_arrays(_codes(key, n_classes), _codes(answer, n_classes))
    shape = truth.shape[:-1]
    n, size = int(np.prod(shape, dtype=int)), n_classes * (n_classes + 1)
    cell = truth * (n_classes + 1) + np.where(said < 0, n_classes, said)
    cell = cell.reshape(n, -1) + size * np.arange(n)[:, None]
    known = truth.reshape(n, -1) >= 0
    counts = np.bincount(cell[known], minlength=n * size)
    return counts.reshape(*shape, n_classes, n_classes + 1).astype(np.int64)


def class_scores(confusion: ArrayLike, count_missing: bool = False) -> tuple[Floats, ...]:
    """Return precision, recall and F1 of every class.

    ``precision = right / answered so``, ``recall = right / so by the key``,
    ``F1 = 2 right / (answered so + so by the key)`` (van Rijsbergen 1979, chapter 7).

    Parameters
    ----------
    confusion
        As ``confusions`` gives it, (..., class, answer).
    count_missing
        Whether an item without answer is a wrong one; else it is left out.

    Returns
    -------
    tuple of ndarray
        Three of float64 (..., class).

    Examples
    --------
    >>> [s.round(2).tolist() for s in class_scores([[3, 1, 0], [0, 2, 2]])]
    [[1.0, 0.67], [0.75, 1.0], [0.86, 0.8]]
    """
    table = np.asarray(confusion, np.int64)
    square = table[..., :-1]
    right = np.diagonal(square, axis1=-2, axis2=-1)
    by_key = (table if count_missing else square).sum(axis=-1)
    answered = square.sum(axis=-2)
    return (
        _ratio(right, answered), _ratio(right, by_key), _ratio(2 * right, answered + by_key),
    )  # fmt: skip


def accuracy(confusion: ArrayLike, count_missing: bool = False) -> Floats:
    """Return the share of items that were answered as the key says, float64 (...).

    >>> accuracy([[3, 1, 0], [0, 2, 2]]).round(3).item()
    0.833
    """
    table = np.asarray(confusion, np.int64)
    square = table[..., :-1]
    of = (table if count_missing else square).sum(axis=(-2, -1))
    return _ratio(np.trace(square, axis1=-2, axis2=-1), of)


def cohen_kappa(confusion: ArrayLike) -> Floats:
    """Return Cohen's kappa of rows and columns, over the items that both answered.

    ``(p_o - p_e) / (1 - p_e)``, p_e from the marginals (Cohen 1960, Educ. Psychol. Meas. 20:37).

    Parameters
    ----------
    confusion
        As ``confusions`` gives it, (..., class, answer).

    Returns
    -------
    ndarray
        float64 (...); NaN where both only ever gave one class.

    Examples
    --------
    >>> cohen_kappa([[3, 1, 0], [0, 2, 2]]).round(3).item()
    0.667
    """
    square = np.asarray(confusion, np.int64)[..., :-1]
    n = square.sum(axis=(-2, -1))
    right = np.trace(square, axis1=-2, axis2=-1)
    chance = (square.sum(axis=-1) * square.sum(axis=-2)).sum(axis=-1)
    return _ratio(n * right - chance, n * n - chance)


def krippendorff_alpha(votes: ArrayLike) -> Floats:
    """Return Krippendorff's alpha for names, over items with two answers or more.

    ``1 - D_o / D_e`` from coincidences (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability, section C); answers may be missing.

    Parameters
    ----------
    votes
        How many answered each class, whole numbers (..., item, class).

    Returns
    -------
    ndarray
        float64 (...); NaN where all answers that can be paired are one class.

    Examples
    --------
    >>> krippendorff_alpha([[2, 0], [0, 2], [1, 1], [1, 0]]).round(3).item()
    0.444
    """
    table = np.asarray(votes, np.int64)
    of_item = table.sum(axis=-1)
    paired = of_item >= 2
    unequal = of_item**2 - (table**2).sum(axis=-1)
    observed = np.where(paired, unequal / np.where(paired, of_item - 1, 1), 0.0).sum(axis=-1)
    totals = (table * paired[..., None]).sum(axis=-2)
    n = totals.sum(axis=-1)
    expected = n**2 - (totals**2).sum(axis=-1)
    return 1 - _ratio(observed * (n - 1), expected)


def votes(answers: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Return how many annotators answered each class, (item, class) from (annotator, item).

    >>> votes([[0, 1, -1], [0, 0, 1]], 2).tolist()
    [[2, 0], [1, 1], [0, 1]]
    """
    codes = _codes(answers, n_classes)
    counted = [(codes == k).sum(axis=0) for k in range(n_classes)]
    return np.stack(counted, axis=-1).astype(np.int64)


def intervals(
    statistic: Callable[[Codes], Floats], n_items: int, n_resamples: int, confidence: float,
    seed: int,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the ends of bootstrap intervals of many scores at once, by drawing items.

    BCa (Efron 1987, JASA 82:171), as ``scipy.stats.bootstrap`` has it, and the plain percentile
    interval where BCa is not defined. Resamples in which a score is not defined are left out of
    its percentile interval.

    Parameters
    ----------
    statistic
        Takes the items drawn, (resample, item), gives scores (score, resample).
    n_items
        To draw from, and how many each time.
    n_resamples, confidence, seed
        Of the bootstrap.

    Returns
    -------
    low, high
        float64 (score,); NaN for fewer than two items.

    Examples
    --------
    >>> right = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1.0])
    >>> low, high = intervals(lambda drawn: right[drawn].mean(-1)[None], 10, 999, 0.9, 0)
    >>> low.round(1).tolist(), high.round(1).tolist()
    ([0.5], [1.0])
    """
    check_draws(n_resamples, confidence, seed, none=False)
    estimate = statistic(np.arange(n_items)[None])[:, 0]
    if n_items < 2:
        return np.full(estimate.shape, np.nan), np.full(estimate.shape, np.nan)
    import warnings

    from scipy.stats import bootstrap

    def scored(drawn: Codes, axis: int = -1) -> Floats:
        found = statistic(np.atleast_2d(drawn))
        return found if drawn.ndim > 1 else found[:, 0]

    # Resamples are drawn in pieces: gathered votes of all at once could fill memory.
    batch = max(1, min(n_resamples, (1 << 20) // n_items))
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # what is degenerate is dealt with below
        found = bootstrap(
            (np.arange(n_items),), scored, n_resamples=n_resamples, batch=batch, vectorized=True,
            confidence_level=confidence, method="BCa", rng=np.random.default_rng(seed),
        )  # fmt: skip
        tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        plain = np.nanquantile(found.bootstrap_distribution, tails, axis=-1)
    ends = np.array([found.confidence_interval.low, found.confidence_interval.high])
    ends = np.where(np.isfinite(ends).all(axis=0), ends, plain)
    ends[:, ~np.isfinite(estimate)] = np.nan
    return np.fmin(ends[0], estimate), np.fmax(ends[1], estimate)


def permutation_p(first: ArrayLike, second: ArrayLike) -> float:
    """Return the exact two-sided p value of the difference of two means, by permutation.

    Of all ways to deal the items out to the two groups, the share in which the means lie at
    least as far apart as they do. With 0 and 1 alone and groups of one size it is Fisher's test.
    Sums are counted item by item, not by trying all ways; that takes as many steps as there are
    items, times those in the first group, times the total.

    Parameters
    ----------
    first, second
        Scores as whole numbers of at least 0, one an item.

    Examples
    --------
    >>> round(permutation_p([2, 2, 2], [0, 0, 1]), 3)
    0.1
    """
    a, b = np.asarray(first, np.int64), np.asarray(second, np.int64)
    items = np.concatenate([a, b])
    n, total = items.size, int(items.sum())
    # Chances that k items dealt to the first group have the sum s. Each goes there with the same
    # chance; given that the group is full, all ways are equally likely.
    chance = np.zeros((a.size + 1, total + 1))
    chance[0, 0] = 1.0
    share = a.size / n
    for value in items.tolist():
        moved = chance[:-1, : total + 1 - value] * share
        chance *= 1 - share
        chance[1:, value:] += moved
    full = chance[-1] / chance[-1].sum()
    apart = np.abs(np.arange(total + 1) * n - total * a.size)
    return float(min(1.0, full[apart >= abs(int(a.sum()) * n - total * a.size)].sum()))


def exact_interval(right: ArrayLike, n_items: ArrayLike, confidence: float) -> Floats:
    """Return the ends of Clopper and Pearson's interval of a share (1934, Biometrika 26:404).

    float64 (low and high, ...); NaN of no items.

    >>> exact_interval(3, 3, 0.95).round(3).tolist()
    [0.292, 1.0]
    """
    from scipy.special import betaincinv

    k, n = np.broadcast_arrays(np.asarray(right, np.float64), np.asarray(n_items, np.float64))
    tail = (1 - confidence) / 2
    # Beta quantiles; their first parameter may not be 0.
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    found: Floats = np.where(n > 0, np.stack([low, high]), np.nan)
    return found


def amended(
    value: ArrayLike, ends: tuple[ArrayLike, ArrayLike], n_items: ArrayLike,
    right: ArrayLike | None, confidence: float,
) -> tuple[Floats, Floats, NDArray[Any]]:  # fmt: skip
    """Return intervals without those that are none: where all draws are alike, or of one item.

    Where all draws are alike, the interval has no width and tells nothing. Of a share there is an
    exact one then, of other scores none.

    Parameters
    ----------
    value, ends
        Scores and the ends of their intervals.
    n_items
        How many items bear on each score.
    right
        How many of these the score is the share of; None if it is no share.
    confidence
        Of the intervals.

    Returns
    -------
    low, high, note
        The note says why a score or an interval is missing, or that it is exact.

    Examples
    --------
    >>> low, high, note = amended([1.0, 0.5], ([1.0, 0.2], [1.0, 0.8]), [3, 9], [3, 4], 0.95)
    >>> low.round(2).tolist(), high.tolist(), note.tolist()[1]
    ([0.29, 0.2], [1.0, 0.8], '')
    """
    score, low, high = (np.asarray(v, np.float64) for v in (value, *ends))
    alike, alone = low == high, np.asarray(n_items) < 2
    exact = np.nan if right is None else exact_interval(right, n_items, confidence)
    low, high = np.where(alone, np.nan, np.where(alike, exact, np.stack([low, high])))
    conditions = [np.isnan(score), alone, alike]
    texts = [UNDEFINED, ALONE, ALIKE if right is None else EXACT]
    return low, high, np.select(conditions, texts, "").astype(object)[()]


def stars(p: float) -> str:
    """Return ``*`` for p < 0.05, ``**`` for p < 0.01, ``***`` for p < 0.001, else ``ns``.

    Nothing for NaN, where no test was made.

    >>> [stars(p) for p in (0.0009, 0.001, 0.049, 0.05, np.nan)]
    ['***', '**', '*', 'ns', '']
    """
    if np.isnan(p):
        return ""
    return next((mark for limit, mark in STARS if p < limit), "ns")


def _codes(codes: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    table = np.asarray(codes, np.int64)
    if table.size and not (table.min() >= -1 and table.max() < n_classes):
        raise RequestError(f"codes of answers: give -1 to {n_classes - 1}, -1 for no answer")
    return table


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Floats:
    """Return ``top / bottom``, NaN where bottom is 0."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    result = np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result
