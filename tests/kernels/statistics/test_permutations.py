import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from thc_dask.kernels import statistics
from thc_dask.kernels.statistics import permutations

relaxed = settings(deadline=None, max_examples=25)  # a busy machine is no failure


def moved(p, q):
    return statistics.wasserstein(p, q)[..., None]


def varied(p, q):
    return statistics.total_variation(p, q)[..., None]


def profiles(rng, n, shift=0.0):
    return rng.dirichlet(np.array([3.0 + shift, 3.0, 3.0, 3.0]), n)


@relaxed
@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 99))
def test_all_dealings_are_tried(n_a, n_b, seed):
    rng = np.random.default_rng(seed)
    a, b = profiles(rng, n_a), profiles(rng, n_b, 2.0)
    both = np.concatenate([a, b])

    def apart(chosen):
        left = sorted({*range(n_a + n_b)} - {*chosen})
        return statistics.wasserstein(both[list(chosen)].mean(0), both[left].mean(0))

    ways = [apart(c) for c in itertools.combinations(range(n_a + n_b), n_a)]
    want = np.mean(np.array(ways) >= apart(range(n_a)) * (1 - 1e-12))
    found = statistics.permuted(a, b, (range(n_a), range(50, 50 + n_b)), moved)
    assert found.p[0] == pytest.approx(want)
    assert found.how == f"{n_a} and {n_b} dealt out, all {len(ways)} ways"


@relaxed
@given(st.integers(6, 8), st.integers(0, 99))
def test_planes_of_both_regions_are_swapped(n, seed):
    rng = np.random.default_rng(seed)
    a, b = profiles(rng, n + 1), profiles(rng, n + 2, 1.0)
    # one plane of a and two of b hold the other region not
    names = ([40, *range(n)], [*range(n)[::-1], 50, 51])
    first, second = a[1:], b[:n][::-1]

    def apart(swap):
        s = np.array(swap)[:, None]
        x, y = np.where(s, second, first), np.where(s, first, second)
        return statistics.total_variation(x.mean(0), y.mean(0))

    ways = [apart(s) for s in itertools.product([False, True], repeat=n)]
    want = np.mean(np.array(ways) >= ways[0] * (1 - 1e-12))
    found = statistics.permuted(a, b, names, varied)
    assert found.p[0] == pytest.approx(want)
    assert found.how == f"{n} pairs swapped, all {2**n} ways"


def test_many_dealings_are_drawn_by_seed_whatever_the_batch(monkeypatch):
    rng = np.random.default_rng(1)
    a, b = profiles(rng, 30), profiles(rng, 30, 1.0)
    apart = (range(30), range(30, 60))
    first = statistics.permuted(a, b, apart, moved, 999, seed=5)
    assert first.how == "30 and 30 dealt out, 999 drawn"
    assert 1 / 1000 <= first.p[0] <= 1
    monkeypatch.setattr(permutations, "NUMBERS_AT_ONCE", 700)
    assert statistics.permuted(a, b, apart, moved, 999, seed=5).p == first.p
    other = [statistics.permuted(a, b, apart, moved, 999, seed=s) for s in (6, 7)]
    assert {float(t.p[0]) for t in (first, *other)} != {float(first.p[0])}


def test_p_values_of_equal_regions_are_spread_evenly():
    rng = np.random.default_rng(2)
    p = np.array([
        statistics.permuted(
            profiles(rng, 6), profiles(rng, 5), (range(6), range(9, 14)), moved
        ).p[0]
        for _ in range(120)
    ])  # fmt: skip
    # binomial errors of 120 trials: 0.02 at 0.05, 0.045 at 0.5
    assert (p <= 0.05).mean() <= 0.11
    assert 0.36 <= (p <= 0.5).mean() <= 0.64


def test_no_test_says_why():
    one = np.full((1, 4), 0.25)
    some = profiles(np.random.default_rng(0), 3)
    found = statistics.permuted(one, some, ([3], [0, 1, 2]), moved)
    assert np.isnan(found.p)
    assert found.how == "no test: fewer than two units in a region"
    found = statistics.permuted(some, some, ([0], [1]), moved, n_permutations=0)
    assert np.isnan(found.p)
    assert found.how == "no test was asked for"


@relaxed
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 3))
def test_corrections_are_statsmodels(p, n_missing):
    holed = np.array([*p[:1], *[np.nan] * n_missing, *p[1:]])
    known = np.isfinite(holed)
    for name, method in (("holm", "holm"), ("bh", "fdr_bh")):
        found = statistics.corrected(holed, name)
        np.testing.assert_allclose(found[known], multipletests(p, method=method)[1], atol=1e-12)
        assert np.isnan(found[~known]).all()


def test_several_distances_are_tested_with_the_same_dealings():
    rng = np.random.default_rng(3)
    a, b = profiles(rng, 9), profiles(rng, 4, 2.0)
    names = (range(9), range(20, 24))

    def both(p, q):
        return np.concatenate([moved(p, q), np.abs(p - q)], axis=-1)

    found = statistics.permuted(a, b, names, both, 500)
    assert found.p.shape == (5,)
    assert found.p[0] == statistics.permuted(a, b, names, moved, 500).p[0]
    one = statistics.permuted(a, b, names, lambda p, q: np.abs(p - q)[..., 2:3], 500)
    assert found.p[3] == one.p[0]
