"""Intervals by drawing planes, or cubes and planes within them, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.draws import check_draws
from thc_dask.kernels.statistics.counts import Floats, checked, ratio, shares
from thc_dask.kernels.statistics.summaries import UNITS, summary_of

Statistic = Callable[[NDArray[np.float64]], Floats]

# Weights, and counts of draws, are made so many at a time: more do not stay in the cache.
NUMBERS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Raises
    ------
    RequestError
        A value is out of range.

    Examples
    --------
    >>> Resampling(confidence=95)
    Traceback (most recent call last):
    thc_dask.errors.RequestError: confidence 95: give a number between 0 and 1, like 0.95
    """

    n_resamples: int = 2000
    """How often units are drawn; 0 makes no intervals."""
    confidence: float = 0.95
    """Share of such intervals that should hold the truth."""
    seed: int = 0
    """Fixes the draws."""

    def __post_init__(self) -> None:
        check_draws(self.n_resamples, self.confidence, self.seed)


@dataclass(frozen=True)
class Distance:
    """A value that is never below 0, and that chance makes larger.

    Two samples of one distribution lie apart, two of their resamples further: by as much again, in
    the power of the distance to which chance adds.
    """

    power: float
    """2 of what grows as differences of shares do, 1 of what grows as their squares."""
    most: float = np.inf
    """What it cannot exceed."""


def intervals(
    statistic: Statistic,
    units: ArrayLike,
    cubes: ArrayLike | None = None,
    how: Resampling | None = None,
    distances: Sequence[Distance | None] = (),
) -> tuple[Floats, Floats]:
    """Return the ends of bootstrap intervals of what follows from counts added over units.

    Of the k units that hold any counts, k are drawn with replacement. With ``cubes`` there are two
    levels: of the cubes that hold any counts as many are drawn as there are, and from each as
    many units as it has (Davison and Hinkley 1997, Bootstrap Methods, section 3.8). Of one cube,
    its units are drawn.

    Intervals are BCa (bias-corrected and accelerated, acceleration from the jackknife over cubes
    if there are several, else over units; Efron 1987, JASA 82:171), or plain percentile intervals
    where BCa is not defined. Draws in which a value is not defined are left out of it.

    Of distances they are percentile intervals without the bias: draws lie as far above the estimate
    on average, in the power of the distance, as the estimate does above the truth, so the ends are
    quantiles of the draws less twice that. Where few voxels or little difference between planes
    makes the bias large, BCa finds nearly all draws above the estimate and leaves no interval.

    Parameters
    ----------
    statistic
        Takes counts with dims (..., row, column) and gives values with dims (..., value).
    units
        Counts by (unit, row, column), whole numbers of at least 0. A unit is what is drawn: a
        plane as a rule. All rows come with it.
    cubes
        Which cube each unit is of, whole numbers.
    how
        Draws, confidence, seed.
    distances
        Of each value, if it is one; empty if none is.

    Returns
    -------
    low, high
        float64 (value,), with the estimate between them. NaN with fewer than two units, without
        draws, and where the estimate is not a finite number.

    Examples
    --------
    >>> planes = [[[90, 10]], [[70, 30]], [[80, 20]]]
    >>> low, high = intervals(lambda h: h[..., 0, 1:] / h.sum((-2, -1))[..., None], planes)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([0.1], [0.3])
    """
    how = how or Resampling()
    counts = checked(units, ("unit", "row", "column"))
    held = counts.any(axis=(1, 2))
    table: Floats = counts[held].astype(np.float64)
    names = np.zeros(len(counts)) if cubes is None else np.asarray(cubes)
    group = np.unique(names[held], return_inverse=True)[1]
    total = table.sum(axis=0)
    estimate = statistic(total)
    if len(table) < 2 or how.n_resamples == 0:
        return np.full(estimate.shape, np.nan), np.full(estimate.shape, np.nan)
    flat = table.reshape(len(table), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = np.concatenate([
            statistic((w @ flat).reshape(-1, *total.shape))
            for w in _weights(group, how, flat.shape[1])
        ])  # fmt: skip
        jackknife = statistic(total - _left_out(table, group))
        levels = _bca_levels(estimate, resampled, jackknife, how.confidence)
        ends = np.array([
            _quantiles(resampled[:, i], levels[:, i]) for i in range(estimate.size)
        ]).reshape(-1, 2)  # fmt: skip
        for i, distance in enumerate(distances):
            if distance is not None:
                ends[i] = _unbiased(estimate[i], resampled[:, i], distance, how, ends[i])
        ends[~np.isfinite(estimate)] = np.nan
        return np.minimum(ends[:, 0], estimate), np.maximum(ends[:, 1], estimate)


def bootstrap_fractions(
    counts: ArrayLike, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0,
    cubes: ArrayLike | None = None,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the ends of a confidence interval for each fraction, by resampling planes.

    Voxels of one plane are alike, so the plane is the unit; a fraction is the sum of counts over
    the sum of totals. How the interval is made, and what ``cubes`` do, is as ``intervals`` says.
    It speaks of other planes of the same specimen.

    Few planes give intervals that are too narrow: ``docs/statistics.md`` has how often they hold
    the truth. A structure that no plane shows gets the interval 0 to 0.

    Parameters
    ----------
    counts
        Voxels by (plane, region, structure), whole numbers of at least 0.
    n_resamples
        How many times the planes are drawn.
    confidence
        Share of such intervals that should hold the true fraction, above 0 and below 1.
    seed
        Fixes the draws. Every region starts from it anew: its interval does not depend on which
        other regions are in the table.
    cubes
        Which cube each plane is of: cubes are drawn, then planes within them.

    Returns
    -------
    low, high
        float64 (region, structure) each; ``low <= fractions(counts) <= high``. NaN for a region
        with voxels in fewer than two planes.

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
    table = checked(counts, ("plane", "region", "structure"))
    how = Resampling(n_resamples, confidence, seed)
    found = [intervals(_share, table[:, r : r + 1], cubes, how) for r in range(table.shape[1])]
    low, high = np.array(found).reshape(-1, 2, table.shape[2]).transpose(1, 0, 2)
    return low, high


def bootstrap_summary(
    units: ArrayLike, cubes: ArrayLike | None = None, how: Resampling | None = None
) -> Floats:
    """Return what each row's intensities come to, with the ends of intervals.

    Parameters
    ----------
    units
        Counts by (unit, region, intensity), whole numbers of at least 0.
    cubes, how
        As ``intervals`` takes them.

    Returns
    -------
    ndarray
        float64 (value, low and high; measure; region), measures in the order of ``UNITS``.

    Examples
    --------
    >>> found = bootstrap_summary([[[0, 3, 1]], [[0, 1, 3]]])
    >>> found[:, 0, 0].tolist()  # the mean
    [1.5, 1.25, 1.75]
    """
    table = checked(units, ("unit", "region", "intensity"))
    found = np.full((3, len(UNITS), table.shape[1]), np.nan)
    found[0] = list(summary_of(table.sum(axis=0)).values())
    for r in range(table.shape[1]):
        found[1:, :, r] = intervals(_summary_of_row, table[:, r : r + 1], cubes, how)
    return found


def _summary_of_row(h: NDArray[np.float64]) -> Floats:
    return np.stack(list(summary_of(h[..., 0, :]).values()), axis=-1)


def _share(h: NDArray[np.float64]) -> Floats:
    return shares(h[..., 0, :])


def _weights(group: NDArray[np.int64], how: Resampling, n_columns: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn, (resample, unit), in batches.

    What is drawn does not depend on how large the batches are.
    """
    k, n_groups = len(group), int(group.max()) + 1
    rng = np.random.default_rng(how.seed)
    first, *within = rng.spawn(1 + n_groups) if n_groups > 1 else (rng,)
    members = [np.flatnonzero(group == g) for g in range(n_groups)]
    batch = max(1, NUMBERS_AT_ONCE // max(k, n_columns))
    for start in range(0, how.n_resamples, batch):
        n = min(batch, how.n_resamples - start)
        if n_groups == 1:
            cell = first.integers(k, size=(n, k)) + k * np.arange(n)[:, None]
            yield np.bincount(cell.ravel(), minlength=n * k).reshape(n, k).astype(np.float64)
            continue
        times = first.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)
        weights = np.zeros((n, k))
        for g, (units, source) in enumerate(zip(members, within, strict=True)):
            size = len(units)
            weights[:, units] = source.multinomial(times[:, g] * size, np.full(size, 1 / size))
        yield weights


def _left_out(table: Floats, group: NDArray[np.int64]) -> Floats:
    """Return the counts of each cube if there are several, else of each unit."""
    n_groups = int(group.max()) + 1
    if n_groups == 1:
        return table
    sums = np.zeros((n_groups, *table.shape[1:]))
    np.add.at(sums, group, table)
    return sums


def _bca_levels(
    estimate: Floats, resampled: Floats, jackknife: Floats, confidence: float
) -> Floats:
    """Return the quantiles of the resampled values to take, (2, value)."""
    from scipy.special import ndtr, ndtri

    # Ties count by half, as in scipy.stats.bootstrap: fractions of few planes are full of them.
    known = ~np.isnan(resampled)
    below = ((resampled < estimate).sum(axis=0) + (resampled <= estimate).sum(axis=0)) / 2
    bias = ndtri(ratio(below, known.sum(axis=0)))
    # A value that needs every unit is not defined without one: then there is no acceleration.
    spread = jackknife.mean(axis=0) - jackknife
    acceleration = ratio((spread**3).sum(axis=0), 6 * (spread**2).sum(axis=0) ** 1.5)
    plain = _plain_levels(confidence)[:, None]
    defined = np.isfinite(bias) & np.isfinite(acceleration)
    shift = np.where(defined, bias, 0.0) + ndtri(plain)
    shrink = 1 - np.where(defined, acceleration, 0.0) * shift
    defined &= (shrink > 0).all(axis=0)
    with_bias = np.where(defined, bias, 0.0) + shift / np.where(shrink > 0, shrink, 1.0)
    return np.where(defined, ndtr(with_bias), plain)


def _unbiased(
    estimate: float, resampled: Floats, distance: Distance, how: Resampling, other: Floats
) -> Floats:
    """Return the ends of the interval of a distance; ``other`` where some draw is infinite."""
    drawn = resampled[~np.isnan(resampled)] ** distance.power
    if not len(drawn) or not np.isfinite(drawn).all():
        return other
    bias = drawn.mean() - estimate**distance.power
    ends: Floats = np.quantile(drawn, _plain_levels(how.confidence)) - 2 * bias
    return np.minimum(np.maximum(ends, 0.0) ** (1 / distance.power), distance.most)


def _plain_levels(confidence: float) -> Floats:
    return np.array([(1 - confidence) / 2, (1 + confidence) / 2])


def _quantiles(values: Floats, levels: Floats) -> Floats:
    """Return quantiles of the values that are defined; infinite ones count as the largest."""
    values = values[~np.isnan(values)]
    if not len(values):
        return np.full(2, np.nan)
    found = np.quantile(values, levels)
    # Between a number and infinity lies infinity; numpy finds that it is not a number.
    return np.where(np.isnan(found), np.inf, found)
