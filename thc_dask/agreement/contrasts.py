"""Tests whether one annotator is better than another, and one region harder than another."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.agreement.answers import ALL, Answers
from thc_dask.agreement.scores import names_of
from thc_dask.kernels.agreement import permutation_p, stars
from thc_dask.kernels.statistics import corrected

if TYPE_CHECKING:
    import xarray as xr

N_PERMUTATIONS = 9999
MOST_STEPS = 2 * 10**8  # of the exact permutation test: about a second


def right(key: NDArray[Any], said: NDArray[Any], wrong: bool) -> NDArray[np.float64]:
    """Return 1 where an answer is right, 0 where it is not, NaN where it does not count."""
    score: NDArray[np.float64] = np.equal(key, said).astype(np.float64)
    score[np.broadcast_to(key < 0, score.shape)] = np.nan
    if not wrong:
        score[said < 0] = np.nan
    return score


def between_annotators(answers: Answers, wrong: bool) -> xr.Dataset:
    """Return McNemar's exact test of every two annotators, by region and over all of them."""
    import xarray as xr
    from statsmodels.stats.contingency_tables import mcnemar

    datasets, m = names_of(answers), len(answers.annotators)
    regions = (ALL, *answers.classes)
    shape = (len(datasets), m, m, len(regions))
    p = np.full(shape, np.nan)
    only, n = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for d, dataset in enumerate(datasets):
        key, said = answers.subset(dataset)
        score = right(key, said, wrong)
        for (r, _), (a, b) in itertools.product(
            enumerate(regions), itertools.combinations(range(m), 2)
        ):
            here = np.isfinite(score[a]) & np.isfinite(score[b]) & ((r == 0) | (key == r - 1))
            first, second = score[a, here] == 1, score[b, here] == 1
            table = [
                [(first & second).sum(), (first & ~second).sum()],
                [(~first & second).sum(), (~first & ~second).sum()],
            ]
            n[d, [a, b], [b, a], r] = here.sum()
            only[d, a, b, r], only[d, b, a, r] = table[0][1], table[1][0]
            if here.any():
                # Nobody alone was right: as even as can be, though the formula has nothing to say.
                even = table[0][1] + table[1][0] == 0
                value = 1.0 if even else float(mcnemar(table, exact=True).pvalue)
                p[d, [a, b], [b, a], r] = value
    dims = ("dataset", "annotator", "other", "region")
    data = {
        "only_annotator": (dims, only), "only_other": (dims, only.transpose(0, 2, 1, 3)),
        "n_items": (dims, n), "p": (dims, p), "stars": (dims, _stars(p)),
    }  # fmt: skip
    coords = {
        "dataset": datasets, "annotator": answers.annotators, "other": answers.annotators,
        "region": regions,
    }  # fmt: skip
    return xr.Dataset(data, {k: np.array(v, object) for k, v in coords.items()})


def between_regions(answers: Answers, wrong: bool, seed: int) -> xr.Dataset:
    """Return for every two regions whether items of one are more often answered right.

    For one annotator Fisher's exact test of right and wrong; for all together a permutation test
    of the mean share of annotators that were right, since answers to one item belong together:
    exact, or by ``seed`` where there are too many items.
    """
    import xarray as xr

    datasets, k = names_of(answers), len(answers.classes)
    annotators = (*answers.annotators, ALL)
    shape = (len(datasets), len(annotators), k, k)
    recall, recall_other, p = (np.full(shape, np.nan) for _ in range(3))
    n = np.zeros(shape, np.int64)
    for d, dataset in enumerate(datasets):
        key, said = answers.subset(dataset)
        score = right(key, said, wrong)
        for a in range(len(annotators)):
            together = a == len(answers.annotators)
            mean = _mean(score) if together else score[a]
            groups = [mean[(key == r) & np.isfinite(mean)] for r in range(k)]
            for i, j in itertools.product(range(k), repeat=2):
                n[d, a, i, j] = groups[i].size
                if groups[i].size and groups[j].size:
                    recall[d, a, i, j] = groups[i].mean()
                    recall_other[d, a, i, j] = groups[j].mean()
                    if i < j:
                        pair = groups[i], groups[j]
                        tested = _permuted(*pair, seed) if together else _fisher(*pair)
                        p[d, a, [i, j], [j, i]] = tested
    familywise, fdr = _corrected(p, "holm"), _corrected(p, "bh")
    dims = ("dataset", "annotator", "region", "other")
    found: dict[str, NDArray[Any]] = {
        "recall": recall, "recall_other": recall_other, "difference": recall - recall_other,
        "n_items": n, "n_other": n.transpose(0, 1, 3, 2),
        "p": p, "p_holm": familywise, "p_bh": fdr,
        "stars": _stars(p), "stars_holm": _stars(familywise),
    }  # fmt: skip
    coords = dict(zip(dims, (datasets, annotators, answers.classes, answers.classes), strict=True))
    data = {name: (dims, values) for name, values in found.items()}
    return xr.Dataset(data, {k: np.array(v, object) for k, v in coords.items()})


def _mean(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of annotators that were right, of those that count; NaN where none does."""
    counted = np.isfinite(score)
    total = np.where(counted, score, 0).sum(axis=0)
    return np.where(counted.any(axis=0), total / np.maximum(counted.sum(axis=0), 1), np.nan)


def _fisher(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    from scipy.stats import fisher_exact

    table = np.array([[x.sum(), x.size - x.sum()] for x in (first, second)], np.int64)
    return float(fisher_exact(table)[1])


def _permuted(first: NDArray[np.float64], second: NDArray[np.float64], seed: int) -> float:
    both = np.concatenate([first, second])
    if np.ptp(both) == 0:
        return 1.0  # nothing differs
    scale = math.lcm(*(Fraction(v).limit_denominator(1000).denominator for v in set(both.tolist())))
    if both.size * first.size * both.sum() * scale <= MOST_STEPS:
        return permutation_p(np.rint(first * scale), np.rint(second * scale))

    from scipy.stats import permutation_test

    def difference(x: Any, y: Any, axis: int) -> Any:
        return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis))

    found = permutation_test(
        (first, second), difference, vectorized=True, n_resamples=N_PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _corrected(p: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """Return p values corrected for all pairs of one annotator in one data set."""
    result = np.full(p.shape, np.nan)
    upper = np.triu_indices(p.shape[-1], 1)
    for place in np.ndindex(*p.shape[:2]):
        result[place][upper] = result[place].T[upper] = corrected(p[place][upper], method)
    return result


def _stars(p: NDArray[np.float64]) -> NDArray[Any]:
    return np.array([stars(v) for v in p.ravel()], object).reshape(p.shape)
