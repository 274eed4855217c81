import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats
from scipy.spatial.distance import jensenshannon

from thc_dask.errors import RequestError
from thc_dask.kernels import statistics
from thc_dask.kernels.statistics.counts import shares
from thc_dask.kernels.statistics.divergences import cosine, js, kl, mean_difference, pairwise

relaxed = settings(deadline=None, max_examples=60)  # a busy machine is no failure

HISTOGRAMS = arrays(
    np.int64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.one_of(st.just(0), st.integers(0, 12), st.integers(0, 10**12)),
)


@relaxed
@given(HISTOGRAMS, st.sampled_from([1e-6, 0.5, 1.0]))
def test_kl_is_the_notebooks_computation(counts, smoothing):
    found = statistics.kl_divergence(counts, smoothing)
    filled = counts.sum(axis=1) > 0
    for i, p in enumerate(counts + smoothing):
        for j, q in enumerate(counts + smoothing):
            # scipy scales both to sum 1, as the notebook does
            want = stats.entropy(p, q) if filled[i] and filled[j] else np.nan
            assert found[i, j] == pytest.approx(want, rel=1e-9, abs=1e-12, nan_ok=True)
    assert np.all(np.diag(found)[filled] == 0)


def test_kl_row_is_p_and_column_is_q():
    found = statistics.kl_divergence([[3, 1], [1, 1]], smoothing=0)
    assert found[0, 1] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found[1, 0] == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_kl_without_smoothing_is_infinite_where_q_is_empty():
    assert statistics.kl_divergence([[1, 1], [1, 0]], smoothing=0)[0, 1] == np.inf


@relaxed
@given(HISTOGRAMS)
def test_jensen_shannon_is_scipys_distance_squared(counts):
    found = statistics.jensen_shannon(counts)
    filled = counts.sum(axis=1) > 0
    for i, p in enumerate(counts):
        for j, q in enumerate(counts):
            want = jensenshannon(p, q) ** 2 if filled[i] and filled[j] else np.nan
            # the square of a root of rounding noise: only absolute accuracy is left near 0
            assert found[i, j] == pytest.approx(want, rel=1e-9, abs=1e-12, nan_ok=True)
    np.testing.assert_array_equal(found, found.T)
    known = found[~np.isnan(found)]
    assert np.all((known >= 0) & (known <= math.log(2)))


@relaxed
@given(
    arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5),
        elements=st.one_of(st.just(0.0), st.floats(1e-6, 1.0)),
    )
)
def test_cosine_dissimilarity(fractions):
    found = statistics.cosine_dissimilarity(fractions)
    for i, p in enumerate(fractions):
        for j, q in enumerate(fractions):
            lengths = math.sqrt(p @ p) * math.sqrt(q @ q)
            want = 1 - (p @ q) / lengths if lengths else np.nan
            assert found[i, j] == pytest.approx(want, abs=1e-12, nan_ok=True)
    filled = fractions.any(axis=1)
    assert np.all(np.diag(found)[filled] == 0)


def test_cosine_dissimilarity_of_an_unknown_region_is_not_a_number():
    found = statistics.cosine_dissimilarity([[0.1, 0.2], [np.nan, np.nan], [0.0, 0.3]])
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[::2, ::2]).all()


def pairs_of_samples():
    """Two histograms over the same levels, with at least a voxel each, and their voxels."""
    h = arrays(np.int64, st.tuples(st.just(2), st.integers(1, 9)), elements=st.integers(0, 7))
    return h.filter(lambda h: (h.sum(axis=1) > 0).all())


@relaxed
@given(pairs_of_samples())
def test_distances_are_those_of_the_expanded_samples(h):
    """What follows from counts is what scipy finds when it sees every voxel."""
    levels = np.arange(h.shape[1])
    a, b = (np.repeat(levels, row) for row in h)
    p, q = shares(h)
    assert statistics.wasserstein(p, q) == pytest.approx(
        stats.wasserstein_distance(a, b), rel=1e-9, abs=1e-12
    )
    u = stats.mannwhitneyu(a, b, method="asymptotic").statistic
    assert statistics.cliffs_delta(p, q) == pytest.approx(2 * u / (len(a) * len(b)) - 1, abs=1e-12)
    assert mean_difference(p, q) == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    events = [sum((a == v).mean() - (b == v).mean() for v in levels if p[v] > q[v])]
    assert statistics.total_variation(p, q) == pytest.approx(events[0], abs=1e-12)
    affinity = sum(math.sqrt((a == v).mean() * (b == v).mean()) for v in levels)
    assert statistics.hellinger(p, q) ** 2 == pytest.approx(1 - affinity, abs=1e-12)
    assert cosine(p, q) == pytest.approx(
        1 - np.dot(h[0] / 1.0, h[1]) / math.sqrt(np.dot(h[0], h[0]) * np.dot(h[1], h[1])), abs=1e-12
    )


@relaxed
@given(HISTOGRAMS)
def test_distances_keep_their_bounds_and_order(counts):
    p = shares(counts)
    filled = np.isfinite(p).all(axis=1)
    for measure, top in (
        (statistics.hellinger, 1), (statistics.total_variation, 1), (cosine, 1), (js, math.log(2)),
        (statistics.wasserstein, counts.shape[1] - 1),
    ):  # fmt: skip
        found = pairwise(measure, p)
        assert np.isfinite(found).tolist() == np.outer(filled, filled).tolist()
        some = found[np.ix_(filled, filled)]
        np.testing.assert_allclose(some, some.T, rtol=0, atol=1e-12)
        assert np.all((some >= 0) & (some <= top + 1e-12))
        np.testing.assert_allclose(np.diag(some), 0, atol=1e-12)
    delta = pairwise(statistics.cliffs_delta, p)[np.ix_(filled, filled)]
    np.testing.assert_allclose(delta, -delta.T, rtol=0, atol=1e-12)
    tv, h = (pairwise(m, p)[np.ix_(filled, filled)] for m in
             (statistics.total_variation, statistics.hellinger))  # fmt: skip
    assert np.all(h**2 <= tv + 1e-9)  # Le Cam
    assert np.all(tv <= math.sqrt(2) * h + 1e-9)


def test_many_tables_cost_one_call():
    h = np.random.default_rng(0).integers(0, 9, (5, 2, 7))
    p, q = np.moveaxis(shares(h + 1), 1, 0)
    for measure in (
        kl, js, cosine, mean_difference, statistics.hellinger, statistics.total_variation,
        statistics.wasserstein, statistics.cliffs_delta,
    ):  # fmt: skip
        want = [float(measure(p[i], q[i])) for i in range(5)]
        np.testing.assert_allclose(measure(p, q), want, rtol=1e-12)


@relaxed
@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_cohen_h_is_statsmodels_effect_size(a, more_a, b, more_b):
    from statsmodels.stats.proportion import proportion_effectsize

    p, q = a / (a + more_a), b / (b + more_b)
    want = proportion_effectsize(p, q)
    assert statistics.cohen_h(p, q) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.jensen_shannon([1, 2]), r"\(region, intensity\) table"),
        (lambda: statistics.kl_divergence([[1, -2]]), "at least 0"),
        (lambda: statistics.kl_divergence([[1, 2]], smoothing=-1), "smoothing -1"),
        (lambda: statistics.kl_divergence([[1, 2]], smoothing=math.nan), "smoothing nan"),
        (lambda: statistics.cosine_dissimilarity([[0.1, -0.2]]), "at least 0"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(RequestError, match=says):
        call()
