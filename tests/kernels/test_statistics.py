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

relaxed = settings(deadline=None, max_examples=60)  # a busy machine is no failure

HISTOGRAMS = arrays(
    np.int64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.one_of(st.just(0), st.integers(0, 12), st.integers(0, 10**12)),
)


def small(max_side, *dims):
    return arrays(np.int64, st.tuples(*dims), elements=st.integers(0, max_side))


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


@relaxed
@given(small(9, st.integers(1, 4), st.integers(1, 12)))
def test_summary_is_numpys_of_the_voxels(counts):
    found = statistics.summary(counts)
    for r, row in enumerate(counts):
        voxels = np.repeat(np.arange(len(row)), row)
        assert found["n"][r] == len(voxels)
        if not len(voxels):
            assert all(np.isnan(found[k][r]) for k in found if k != "n")
            continue
        assert found["mean"][r] == pytest.approx(voxels.mean())
        assert found["sd"][r] == pytest.approx(voxels.std(), abs=1e-12)
        assert found["entropy_bits"][r] == pytest.approx(stats.entropy(row, base=2), abs=1e-12)
        for q in statistics.PERCENTILES:
            want = np.percentile(voxels, q, method="inverted_cdf")
            assert found[f"p{q}"][r] == want


def test_percentiles_do_not_round_at_brain_size():
    half = 3 * 10**15 + 1
    found = statistics.summary([[half, half, 0], [half - 1, half, 0]])
    assert found["p50"].tolist() == [0.0, 1.0]


@relaxed
@given(small(50, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)))
def test_fractions_divide_sums(counts):
    found = statistics.fractions(counts)
    total = counts.sum(axis=0)
    for r in range(total.shape[0]):
        if total[r].sum():
            assert found[r].tolist() == (total[r] / total[r].sum()).tolist()
        else:
            assert np.isnan(found[r]).all()


@relaxed
@given(small(50, st.integers(1, 6), st.integers(1, 3), st.integers(1, 4)), st.integers(0, 9))
def test_bootstrap_holds_the_fraction_and_needs_two_planes(counts, seed):
    low, high = statistics.bootstrap_fractions(counts, n_resamples=50, seed=seed)
    fraction = statistics.fractions(counts)
    n_planes = (counts.sum(axis=2) > 0).sum(axis=0)
    for r, n in enumerate(n_planes):
        if n < 2:
            assert np.isnan(low[r]).all()
            assert np.isnan(high[r]).all()
        else:
            assert np.all((low[r] >= 0) & (low[r] <= fraction[r]))
            assert np.all((high[r] >= fraction[r]) & (high[r] <= 1))


def planes_of(rng, n_planes, n_regions, size=5000):
    """Counts whose true fraction is 0.2 although planes differ in size and in composition."""
    total = rng.integers(size // 5, size, (n_planes, n_regions))
    share = rng.beta(4, 16, (n_planes, n_regions))
    some = rng.binomial(total, share)
    return np.stack([total - some, some], axis=2)


def test_bootstrap_is_scipys_bca():
    counts = planes_of(np.random.default_rng(5), 14, 1)
    low, high = statistics.bootstrap_fractions(counts, n_resamples=20000)
    for s in range(2):
        data = (counts[:, 0, s], counts[:, 0].sum(axis=1))
        want = stats.bootstrap(
            data,
            lambda a, b, axis: a.sum(axis) / b.sum(axis),
            n_resamples=20000,
            paired=True,
            vectorized=True,
            method="BCa",
            rng=np.random.default_rng(1),
        ).confidence_interval
        # two sets of random draws: they agree to a few hundredths of the interval's width
        tolerance = 0.04 * (want.high - want.low)
        assert low[0, s] == pytest.approx(want.low, abs=tolerance)
        assert high[0, s] == pytest.approx(want.high, abs=tolerance)


def test_bootstrap_covers_about_as_often_as_it_says():
    counts = planes_of(np.random.default_rng(11), 30, 400)
    low, high = statistics.bootstrap_fractions(counts, n_resamples=400)
    covered = ((low[:, 1] <= 0.2) & (high[:, 1] >= 0.2)).mean()
    # binomial error of 400 trials is 0.011; a ratio from 30 planes is a little too narrow
    assert 0.90 <= covered <= 0.98


def test_bootstrap_of_a_region_ignores_the_others_and_empty_planes():
    counts = planes_of(np.random.default_rng(2), 8, 3)
    low, high = statistics.bootstrap_fractions(counts, n_resamples=100)
    alone = counts[:, 2:3]
    padded = np.concatenate([alone[:3], np.zeros_like(alone[:2]), alone[3:]])
    for table in (alone, padded):
        low_alone, high_alone = statistics.bootstrap_fractions(table, n_resamples=100)
        np.testing.assert_array_equal(low_alone[0], low[2])
        np.testing.assert_array_equal(high_alone[0], high[2])


def test_bootstrap_does_not_depend_on_the_batches(monkeypatch):
    counts = planes_of(np.random.default_rng(3), 7, 2)
    whole = statistics.bootstrap_fractions(counts, n_resamples=100)
    monkeypatch.setattr(statistics, "WEIGHTS_AT_ONCE", 50)
    np.testing.assert_array_equal(statistics.bootstrap_fractions(counts, n_resamples=100), whole)


def test_bootstrap_of_equal_planes_has_no_width():
    low, high = statistics.bootstrap_fractions([[[9, 1, 0]]] * 4, n_resamples=50)
    assert low.tolist() == high.tolist() == [[0.9, 0.1, 0.0]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.jensen_shannon([1, 2]), r"\(region, intensity\) table"),
        (lambda: statistics.summary([[1.5, 2]]), "whole numbers"),
        (lambda: statistics.summary([[np.nan, 2]]), "whole numbers"),
        (lambda: statistics.summary([["a", "b"]]), "whole numbers"),
        (lambda: statistics.kl_divergence([[1, -2]]), "at least 0"),
        (lambda: statistics.kl_divergence([[1, 2]], smoothing=-1), "smoothing -1"),
        (lambda: statistics.cosine_dissimilarity([[0.1, -0.2]]), "at least 0"),
        (lambda: statistics.fractions([[1, 2]]), r"\(plane, region, structure\)"),
        (lambda: statistics.bootstrap_fractions([[[1, 2]]], n_resamples=0), "n_resamples 0"),
        (lambda: statistics.bootstrap_fractions([[[1, 2]]], confidence=95), "like 0.95"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(RequestError, match=says):
        call()
