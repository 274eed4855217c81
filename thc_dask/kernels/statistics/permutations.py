"""Whether two regions differ: planes are dealt out anew, never voxels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thc_dask.kernels.statistics.counts import Floats

Distance = Callable[[Floats, Floats], Floats]

# With fewer pairs even the most extreme dealing out of 2**n has a p value above 0.05.
FEWEST_PAIRS = 6
# Profiles are made so many numbers at a time: more do not stay in the cache.
NUMBERS_AT_ONCE = 1 << 19


@dataclass(frozen=True)
class Tested:
    """What a permutation test came to."""

    p: Floats
    """Of each distance, two-sided; NaN where no test was possible."""
    how: str
    """Which units were dealt out, and how; or why there is no test."""


def permuted(
    first: ArrayLike,
    second: ArrayLike,
    names: tuple[ArrayLike, ArrayLike],
    distance: Distance,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Tested:
    """Return whether the profiles of two regions could have been dealt out either way.

    Each unit (a plane, a cube) of a region has a profile: its shares. Two mean profiles, in which
    every unit weighs the same, lie some distance apart; p is the share of dealings in which they
    lie at least so far apart. If there are at least six units that hold both regions, those are
    taken, and the two profiles of each are swapped or not (a paired test). Else all units are
    dealt out to two groups of the sizes they have. All dealings are tried where there are at most
    ``n_permutations``; else so many are drawn, and the one that was seen counts as one of them
    (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39). By ``scipy.stats``.

    Parameters
    ----------
    first, second
        Profiles (unit, column) of the two regions; units without counts are not among them.
    names
        Which unit each profile is of, for either region: equal names, same unit.
    distance
        Takes two mean profiles (..., column) and says how far they are apart, (..., distance): in
        one way or more, which are tested with the same dealings.
    n_permutations, seed
        Of the draws.

    Returns
    -------
    Tested
        p, and how it was found.

    Examples
    --------
    >>> from thc_dask.kernels.statistics.divergences import total_variation
    >>> a, b = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.1, 0.9], [0.2, 0.8]])
    >>> tested = permuted(a, b, ([0, 1], [2, 3]), lambda p, q: total_variation(p, q)[..., None])
    >>> tested.p.round(3).tolist(), tested.how
    ([0.333], '2 and 2 dealt out, all 6 ways')
    """
    from math import comb

    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    nothing = np.full(distance(a[:1].sum(axis=0), b[:1].sum(axis=0)).shape, np.nan)
    if n_permutations < 1:
        return Tested(nothing, "no test was asked for")
    if min(len(a), len(b)) < 2:
        return Tested(nothing, "no test: fewer than two units in a region")
    shared, of_a, of_b = np.intersect1d(names[0], names[1], return_indices=True)
    paired = len(shared) >= FEWEST_PAIRS
    if paired:
        a, b = a[of_a], b[of_b]
        n_ways, units = 2 ** len(shared), f"{len(shared)} pairs swapped"
    else:
        n_ways, units = comb(len(a) + len(b), len(a)), f"{len(a)} and {len(b)} dealt out"
    tried = f"all {n_ways} ways" if n_ways <= n_permutations else f"{n_permutations} drawn"
    return Tested(_p_value(a, b, paired, distance, n_permutations, seed), f"{units}, {tried}")


def _p_value(
    a: Floats, b: Floats, paired: bool, distance: Distance, n_permutations: int, seed: int
) -> Floats:
    from scipy.stats import permutation_test

    profiles, n_all = np.concatenate([a, b]), len(a) + len(b)
    total = profiles.sum(axis=0)

    def apart(x: NDArray[Any], y: NDArray[Any], axis: int = -1) -> Floats:
        # As a product of matrices: to gather the profiles would take more memory than they do.
        chosen = np.zeros((*x.shape[:-1], n_all))
        np.put_along_axis(chosen, x, 1.0, axis=-1)
        some = chosen @ profiles
        return distance(some / len(a), (total - some) / len(b))

    found = permutation_test(
        (np.arange(len(a)), np.arange(len(a), n_all)), apart, vectorized=True,
        permutation_type="samples" if paired else "independent", alternative="greater",
        n_resamples=n_permutations, batch=max(1, NUMBERS_AT_ONCE // max(profiles.shape)),
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return np.asarray(found.pvalue, np.float64)


def corrected(p: ArrayLike, method: str) -> Floats:
    """Return p values corrected for how many there are; NaN stays NaN and counts as none.

    Parameters
    ----------
    p
        One family of tests, any shape.
    method
        ``holm`` (Holm 1979, Scand. J. Stat. 6:65) or ``bh`` (Benjamini and Hochberg 1995, J. R.
        Stat. Soc. B 57:289).

    Examples
    --------
    >>> corrected([0.01, np.nan, 0.04, 0.03], "holm").round(2).tolist()
    [0.03, nan, 0.06, 0.06]
    """
    from scipy.stats import false_discovery_control

    values = np.array(p, np.float64)
    known = np.isfinite(values)
    if known.any():
        some = values[known]
        values[known] = _holm(some) if method == "holm" else false_discovery_control(some)
    return values


def _holm(p: Floats) -> Floats:
    # statsmodels has it too, and empties Python's garbage each time: 0.1 s a call
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    result = np.empty_like(p)
    result[order] = np.minimum(steps, 1.0)
    return result
