"""Scores of annotators, against scikit-learn, krippendorff and scipy."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from thc_dask.errors import RequestError
from thc_dask.kernels import agreement

relaxed = settings(deadline=None, max_examples=80)
K = 4


@st.composite
def answers(draw, n_raters=2, missing=True, min_items=1):
    n = draw(st.integers(min_items, 25))
    code = st.integers(-1 if missing else 0, K - 1)
    line = st.lists(code, min_size=n, max_size=n)
    return np.array(draw(st.lists(line, min_size=n_raters, max_size=n_raters)))


@relaxed
@given(answers(missing=False))
def test_scores_are_those_of_scikit_learn(codes):
    key, said = codes
    table = agreement.confusions(key, said, K)
    np.testing.assert_array_equal(
        table[:, :-1], metrics.confusion_matrix(key, said, labels=range(K))
    )
    assert table[:, -1].sum() == 0
    *wanted, support = metrics.precision_recall_fscore_support(
        key, said, labels=range(K), zero_division=np.nan
    )
    for found, want in zip(agreement.class_scores(table), wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-12)
    assert table.sum(axis=1).tolist() == support.tolist()
    assert agreement.accuracy(table) == pytest.approx(metrics.accuracy_score(key, said))


@relaxed
@given(answers(missing=False, min_items=2))
def test_kappa_is_that_of_scikit_learn(codes):
    first, second = codes
    found = agreement.cohen_kappa(agreement.confusions(first, second, K))
    if len(set(codes.ravel())) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(metrics.cohen_kappa_score(first, second), abs=1e-12)


@relaxed
@given(answers())
def test_an_item_without_answer_is_left_out_or_wrong(codes):
    key, said = codes
    table = agreement.confusions(key, said, K)
    both = (key >= 0) & (said >= 0)
    np.testing.assert_array_equal(
        table[:, :-1], agreement.confusions(key[both], said[both], K)[:, :-1]
    )
    assert table[:, -1].sum() == ((key >= 0) & (said < 0)).sum()
    # to scikit-learn a missing answer is one more class that is never right
    asked = key >= 0
    if asked.any():
        *wanted, _ = metrics.precision_recall_fscore_support(
            key[asked], said[asked], labels=range(K), zero_division=np.nan
        )
        for found, want in zip(agreement.class_scores(table, True), wanted, strict=True):
            np.testing.assert_allclose(found, want, atol=1e-12)
        want = metrics.accuracy_score(key[asked], said[asked])
        assert agreement.accuracy(table, True) == pytest.approx(want)


@relaxed
@given(st.integers(2, 4).flatmap(lambda n: answers(n_raters=n)))
def test_alpha_is_that_of_krippendorff(codes):
    counted = agreement.votes(codes, K)
    pairable = counted[counted.sum(axis=1) >= 2]
    found = agreement.krippendorff_alpha(counted)
    if (pairable.sum(axis=0) > 0).sum() < 2:
        assert np.isnan(found)
        return
    data = np.where(codes < 0, np.nan, codes.astype(float))
    want = krippendorff.alpha(data, level_of_measurement="nominal", value_domain=range(K))
    assert found == pytest.approx(want, abs=1e-12)


@relaxed
@given(answers(n_raters=3), st.integers(0, 9))
def test_resamples_at_once_equal_one_by_one(codes, seed):
    key, first, second = codes
    n = len(key)
    drawn = np.random.default_rng(seed).integers(n, size=(5, n))
    tables = agreement.confusions(key[drawn], first[drawn], K)
    assert tables.shape == (5, K, K + 1)
    alphas = agreement.krippendorff_alpha(agreement.votes(codes[1:], K)[drawn])
    for i, one in enumerate(drawn):
        alone = agreement.confusions(key[one], first[one], K)
        np.testing.assert_array_equal(tables[i], alone)
        want = agreement.krippendorff_alpha(agreement.votes([first[one], second[one]], K))
        np.testing.assert_allclose(alphas[i], want, atol=1e-12)


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(1)
    values = rng.random((3, 40)) ** 2
    low, high = agreement.intervals(lambda i: values[:, i].mean(-1), 40, 500, 0.9, 7)
    for k, line in enumerate(values):
        want = stats.bootstrap(
            (line,), np.mean, n_resamples=500, confidence_level=0.9, rng=np.random.default_rng(7)
        ).confidence_interval
        assert (low[k], high[k]) == pytest.approx((want.low, want.high), abs=1e-12)


def test_intervals_where_bca_is_not_defined():
    """All right: every resample is 1, and so are both ends."""
    key = np.array([0, 1] * 5)

    def score(drawn):
        return agreement.accuracy(agreement.confusions(key[drawn], key[drawn], 2))[None]

    assert [end.tolist() for end in agreement.intervals(score, 10, 50, 0.95, 0)] == [[1.0], [1.0]]
    single = agreement.intervals(lambda i: key[i].mean(-1)[None], 1, 50, 0.95, 0)
    assert np.isnan(single).all()


@relaxed
@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.5, 0.9, 0.95]))
def test_exact_intervals_are_those_of_scipy_and_statsmodels(a, b, confidence):
    k, n = min(a, b), max(a, b)
    found = agreement.exact_interval(k, n, confidence)
    if n == 0:
        assert np.isnan(found).all()
        return
    want = stats.binomtest(k, n).proportion_ci(confidence, method="exact")
    assert found == pytest.approx([want.low, want.high], abs=1e-12)
    assert found == pytest.approx(proportion_confint(k, n, 1 - confidence, "beta"), abs=1e-12)


def test_only_intervals_without_width_are_amended():
    value, low, high = [0.5, 1.0, 1.0, np.nan], [0.1, 1.0, 1.0, np.nan], [0.9, 1.0, 1.0, np.nan]
    n, right = [4, 4, 1, 0], [2, 4, 1, 0]
    *ends, note = agreement.amended(value, (low, high), n, right, 0.95)
    exact = stats.binomtest(4, 4).proportion_ci(method="exact").low
    np.testing.assert_allclose(ends, [[0.1, exact, np.nan, np.nan], [0.9, 1, np.nan, np.nan]])
    said = ["", agreement.EXACT, agreement.ALONE, agreement.UNDEFINED]
    assert note.tolist() == said
    *ends, note = agreement.amended(value, (low, high), n, None, 0.95)
    np.testing.assert_allclose(ends, [[0.1, *[np.nan] * 3], [0.9, *[np.nan] * 3]])
    assert note.tolist() == ["", agreement.ALIKE, *said[2:]]


def test_intervals_leave_out_resamples_without_a_score():
    """One item of the class: about a third of the resamples have none."""
    key, said = np.array([0] * 9 + [1]), np.array([0] * 8 + [1, 1])

    def recall(drawn):
        return agreement.class_scores(agreement.confusions(key[drawn], said[drawn], 2))[1].T

    low, high = agreement.intervals(recall, 10, 200, 0.95, 0)
    assert (low[1], high[1]) == (1.0, 1.0)
    assert 0 < low[0] < 8 / 9 < high[0] <= 1


@relaxed
@given(st.data())
def test_permutations_are_those_of_scipy(data):
    scores = st.lists(st.integers(0, 4), min_size=2, max_size=5)
    first, second = data.draw(scores), data.draw(scores)
    found = agreement.permutation_p(first, second)

    def difference(x, y, axis):
        return np.abs(np.mean(x, axis=axis) - np.mean(y, axis=axis))

    # fewer ways than resamples: scipy tries them all
    want = stats.permutation_test(
        (first, second), difference, n_resamples=np.inf, alternative="greater", vectorized=True
    )
    assert found == pytest.approx(want.pvalue, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(60, 41), (59, 60), (30, 45)])
def test_permutations_of_right_and_wrong_are_fishers_test(a, b):
    first, second = np.arange(60) < a, np.arange(60) < b
    want = stats.fisher_exact([[a, 60 - a], [b, 60 - b]]).pvalue
    assert agreement.permutation_p(first, second) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((0, 0.95, 0), "n_resamples 0"),
        ((10, 95, 0), "confidence 95"),
        ((10, 0.95, -1), "seed -1"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(RequestError, match=said):
        agreement.intervals(lambda i: i.mean(-1)[None], 5, *options)


def test_codes_out_of_range():
    with pytest.raises(RequestError, match="give -1 to 1"):
        agreement.confusions([0, 2], [0, 1], 2)


def test_stars_are_strict():
    """The paper: * p < 0.05, ** p < 0.01, *** p < .001."""
    just_below = [agreement.stars(np.nextafter(limit, 0)) for limit in (0.05, 0.01, 0.001)]
    assert just_below == ["*", "**", "***"]
    assert [agreement.stars(limit) for limit in (0.05, 0.01, 0.001)] == ["ns", "*", "**"]
