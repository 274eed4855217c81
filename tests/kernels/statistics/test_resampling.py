import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from thc_dask.errors import RequestError
from thc_dask.kernels import statistics
from thc_dask.kernels.statistics import Distance, resampling
from thc_dask.kernels.statistics.counts import shares
from thc_dask.kernels.statistics.divergences import (
    cliffs_delta,
    hellinger,
    js,
    kl,
    total_variation,
)

relaxed = settings(deadline=None, max_examples=60)  # a busy machine is no failure


def small(max_side, *dims):
    return arrays(np.int64, st.tuples(*dims), elements=st.integers(0, max_side))


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


@pytest.mark.parametrize("cubes", [None, [0, 0, 1, 1, 1, 4, 4]])
def test_bootstrap_does_not_depend_on_the_batches(monkeypatch, cubes):
    counts = planes_of(np.random.default_rng(3), 7, 2)
    whole = statistics.bootstrap_fractions(counts, n_resamples=100, cubes=cubes)
    monkeypatch.setattr(resampling, "NUMBERS_AT_ONCE", 50)
    np.testing.assert_array_equal(
        statistics.bootstrap_fractions(counts, n_resamples=100, cubes=cubes), whole
    )


def test_bootstrap_of_equal_planes_has_no_width():
    low, high = statistics.bootstrap_fractions([[[9, 1, 0]]] * 4, n_resamples=50)
    assert low.tolist() == high.tolist() == [[0.9, 0.1, 0.0]]


def clustered(rng, n_sets, n_cubes=6, n_planes=5, size=4000):
    """Counts of planes in cubes: a share of 0.2 that differs from cube to cube and within."""
    of_cube = rng.beta(8, 32, (n_cubes, 1, n_sets))
    share = np.clip(of_cube + rng.normal(0, 0.02, (n_cubes, n_planes, n_sets)), 0, 1)
    total = rng.integers(size // 2, size, share.shape)
    some = rng.binomial(total, share)
    table = np.stack([total - some, some], axis=-1).reshape(n_cubes * n_planes, n_sets, 2)
    return table, np.repeat(np.arange(n_cubes), n_planes)


def test_planes_alone_miss_what_differs_between_cubes():
    """Drawn as if they were independent, planes of few cubes give intervals that are far off."""
    counts, cubes = clustered(np.random.default_rng(4), 150)
    covered = []
    for of in (None, cubes):
        low, high = statistics.bootstrap_fractions(counts, n_resamples=300, cubes=of)
        covered.append(((low[:, 1] <= 0.2) & (high[:, 1] >= 0.2)).mean())
    # six cubes: a percentile-type interval still is too narrow, but no longer wrong
    assert covered[0] < 0.65
    assert covered[1] > 0.78


def test_of_one_cube_planes_are_drawn():
    counts = planes_of(np.random.default_rng(3), 7, 1)
    alone = statistics.bootstrap_fractions(counts, n_resamples=100)
    found = statistics.bootstrap_fractions(counts, n_resamples=100, cubes=[3] * 7)
    np.testing.assert_array_equal(found, alone)


def test_cubes_without_counts_are_no_cubes():
    counts, cubes = clustered(np.random.default_rng(8), 1)
    want = statistics.bootstrap_fractions(counts, n_resamples=50, cubes=cubes)
    more = np.concatenate([np.zeros_like(counts[:4]), counts])
    names = np.concatenate([[9, 9, 2, 7], cubes])
    found = statistics.bootstrap_fractions(more, n_resamples=50, cubes=names)
    np.testing.assert_array_equal(found, want)


def test_two_levels_draw_whole_cubes_and_as_many_planes_as_they_have():
    cubes = np.array([0, 0, 0, 1, 1, 2])
    how = statistics.Resampling(n_resamples=4000)
    weights = np.concatenate(list(resampling._weights(cubes, how, 1)))
    of_cube = np.stack([weights[:, cubes == g].sum(axis=1) for g in range(3)], axis=1)
    times = of_cube / np.array([3, 2, 1])
    assert (times == np.rint(times)).all()
    assert (times.sum(axis=1) == 3).all()
    np.testing.assert_allclose(times.mean(axis=0), 1, atol=0.06)  # multinomial: sd 0.013
    assert len(np.unique(weights[times[:, 0] == 1][:, :3], axis=0)) == 10  # 3 planes: all ways


def distances(h):
    p, q = np.moveaxis(shares(h), -2, 0)
    return np.stack([js(p, q), cliffs_delta(p, q)], axis=-1)


def test_intervals_of_distances_are_scipys():
    """Any statistic of added counts: here of two regions that share their planes."""
    rng = np.random.default_rng(7)
    base = rng.dirichlet(np.full(12, 4.0), 2)
    planes = np.stack([
        [rng.multinomial(9000, rng.dirichlet(b * 200)) for b in base] for _ in range(12)
    ])  # fmt: skip
    low, high = statistics.intervals(distances, planes, how=statistics.Resampling(20000))

    def drawn(i, axis=-1):
        return np.moveaxis(distances(planes[i].sum(axis=-3)), -1, 0)

    want = stats.bootstrap(
        (np.arange(12),), drawn, n_resamples=20000, batch=1000, method="BCa", axis=-1,
        rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    width = want.high - want.low
    np.testing.assert_allclose(low, want.low, atol=0.08 * width.min())
    np.testing.assert_allclose(high, want.high, atol=0.08 * width.min())


DISTANCES = {
    "js": (js, Distance(1, np.log(2))),
    "total_variation": (total_variation, Distance(2, 1.0)),
    "hellinger": (hellinger, Distance(2, 1.0)),
}


def of_two(measure):
    return lambda h: measure(*np.moveaxis(shares(h), -2, 0))[..., None]


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("shift", [0, 8])
def test_distances_of_few_voxels_have_intervals_that_hold_the_truth(name, shift):
    """Chance makes such a distance up to twice what it is: of BCa intervals nothing is left."""
    measure, kind = DISTANCES[name]
    level = np.arange(256)
    base = np.stack([np.exp(-(((level - mid) / 60) ** 2) / 2) for mid in (100, 100 + shift)])
    base /= base.sum(axis=1, keepdims=True)
    truth = of_two(measure)(base)[0]
    rng, held, without = np.random.default_rng(5), 0, 0
    for _ in range(40):
        planes = np.stack([[rng.multinomial(9000, p) for p in base] for _ in range(8)])
        estimate = of_two(measure)(planes.sum(axis=0))[0]
        low, high = statistics.intervals(
            of_two(measure), planes, None, statistics.Resampling(200), [kind]
        )
        assert low[0] < estimate <= high[0]
        held += low[0] <= truth <= high[0]
        low, high = statistics.intervals(of_two(measure), planes, how=statistics.Resampling(200))
        without += low[0] <= truth <= high[0]
    assert held >= 36
    assert without <= 8


def test_the_interval_of_a_distance_is_that_of_draws_without_their_bias():
    rng = np.random.default_rng(8)
    planes = rng.integers(1, 90, (9, 2, 5))
    measure, kind = DISTANCES["total_variation"]
    how = statistics.Resampling(300, 0.9, 4)
    low, high = statistics.intervals(of_two(measure), planes, None, how, [kind])
    weights = np.concatenate(list(resampling._weights(np.zeros(9, np.int64), how, 10)))
    drawn = of_two(measure)(np.einsum("du,urc->drc", weights, planes))[:, 0] ** 2
    estimate = of_two(measure)(planes.sum(axis=0))[0]
    ends = np.quantile(drawn, [0.05, 0.95]) - 2 * (drawn.mean() - estimate**2)
    want = np.sqrt(np.maximum(ends, 0))
    np.testing.assert_allclose((low[0], high[0]), (want[0], max(want[1], estimate)), rtol=1e-12)


def test_no_interval_of_a_distance_ends_beyond_what_it_can_be():
    planes = np.array([[[9, 0, 1], [0, 9, 0]], [[9, 0, 0], [0, 9, 1]], [[9, 0, 0], [0, 9, 0]]])
    for measure, kind in DISTANCES.values():
        _, high = statistics.intervals(of_two(measure), planes, None, None, [kind])
        assert high[0] <= kind.most


def test_draws_without_one_of_the_regions_are_left_out():
    planes = np.array([[[4, 6], [0, 0]], [[5, 5], [0, 0]], [[3, 7], [9, 1]], [[6, 4], [0, 0]]])
    low, high = statistics.intervals(distances, planes, how=statistics.Resampling(400))
    assert np.isfinite([low, high]).all()
    assert (low <= high).all()


def test_what_is_not_finite_has_no_interval():
    def divergence(h):
        p, q = np.moveaxis(shares(h), -2, 0)
        return np.stack([kl(p, q), kl(q, p)], axis=-1)

    planes = [[[5, 5], [9, 0]], [[4, 6], [9, 0]], [[5, 4], [8, 0]]]
    low, high = statistics.intervals(divergence, planes)
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert 0 < low[1] < high[1]
    # here only some draws are infinite
    planes[0][1][1] = 1
    low, high = statistics.intervals(divergence, planes)
    assert 0 < low[0] < high[0] == np.inf


@pytest.mark.parametrize("planes", [[], [[[3, 4]]], [[[3, 4]], [[0, 0]]]])
def test_fewer_than_two_planes_have_no_interval(planes):
    table = np.array(planes, np.int64).reshape(-1, 1, 2)
    assert np.isnan(statistics.intervals(lambda h: h[..., 0, :], table)).all()


def test_no_draws_no_intervals():
    assert np.isnan(statistics.bootstrap_fractions([[[1, 2]], [[2, 2]]], n_resamples=0)).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: statistics.bootstrap_fractions([[[1, 2]]], n_resamples=-1), "n_resamples -1"),
        (lambda: statistics.bootstrap_fractions([[[1, 2]]], confidence=95), "like 0.95"),
        (lambda: statistics.Resampling(seed=-2), "seed -2"),
        (lambda: statistics.intervals(distances, [[1, 2]]), r"\(unit, row, column\)"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(RequestError, match=says):
        call()
