"""Which planes are for testing: against trying every division, and even shares of planes."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thc_dask.patches.splitting import divide, most, parts, spread

SHARES = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.79, 0.95])


@st.composite
def capacities(draw, most_planes=7):
    """Patches by region and plane; regions that end on the way among them."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, most_planes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.integers(0, 9, shape) * (rng.random(shape) < 0.8)


@given(st.integers(2, 400), SHARES | st.floats(0.01, 0.99))
def test_parts_make_up_the_whole(n, share):
    train, test = parts(n, share)
    assert train + test == n
    assert min(train, test) >= 1
    assert abs(test - n * share) <= 1
    assert parts(n + 1, share) in ((train + 1, test), (train, test + 1))


@given(st.integers(0, 60), st.integers(0, 60), SHARES)
def test_most_is_the_largest_that_there_is(train, test, share):
    fits = [
        n for n in range(2, 200)
        if parts(n, share)[0] <= train and parts(n, share)[1] <= test
    ]  # fmt: skip
    assert most(train, test, share) == max(fits, default=0)


def best(capacity, share):
    """Return the most patches that any division allows."""
    found = 0
    for bits in product((False, True), repeat=capacity.shape[1]):
        test = np.array(bits)
        left = capacity[:, ~test].sum(axis=1).min(), capacity[:, test].sum(axis=1).min()
        found = max(found, most(int(left[0]), int(left[1]), share))
    return found


def holds(capacity, division, share):
    """Check that a division gives what it says."""
    train, test = parts(division.n, share) if division.n else (0, 0)
    assert (capacity[:, ~division.test].sum(axis=1) >= train).all()
    assert (capacity[:, division.test].sum(axis=1) >= test).all()


@given(capacities(), SHARES, st.integers(0, 99))
def test_no_division_allows_more(capacity, share, seed):
    found = divide(capacity, share, None, np.random.default_rng(seed))
    holds(capacity, found, share)
    assert found.n == best(capacity, share)


@given(capacities(), SHARES, st.integers(2, 30), st.integers(0, 99))
def test_what_can_be_had_is_had(capacity, share, n, seed):
    found = divide(capacity, share, n, np.random.default_rng(seed))
    holds(capacity, found, share)
    assert (found.n >= n) == (best(capacity, share) >= n)


def test_many_planes_are_divided_too():
    rng = np.random.default_rng(0)
    capacity = np.zeros((3, 60), np.int64)
    capacity[0] = rng.integers(5, 9, 60)
    capacity[1, :4], capacity[2, [7, 59]] = 3, 10  # rare ones: hardly any draw divides them well
    found = divide(capacity, 0.5, None, rng)
    assert found.n == 12  # all of the second, two planes to train and two to test
    holds(capacity, found, 0.5)


def test_the_share_of_planes_is_kept_where_it_can_be():
    capacity = np.full((2, 40), 50)
    found = divide(capacity, 0.25, 20, np.random.default_rng(0))
    assert found.test.sum() == 10
    other = divide(capacity, 0.25, 20, np.random.default_rng(1))
    assert other.test.sum() == 10
    assert (found.test != other.test).any()


def test_no_test_part_needs_no_second_plane():
    found = divide(np.array([[7], [5]]), 0.0, None, np.random.default_rng(0))
    assert (found.n, found.test.tolist()) == (5, [False])
    assert divide(np.array([[7], [5]]), 0.5, None, np.random.default_rng(0)).n == 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.data())
def test_planes_give_as_evenly_as_they_can(capacity, data):
    capacity = np.array(capacity)
    n = data.draw(st.integers(0, int(capacity.sum())))
    given_ = spread(capacity, n, np.random.default_rng(data.draw(st.integers(0, 9))))
    assert given_.sum() == n
    assert (given_ >= 0).all()
    assert (given_ <= capacity).all()
    # Who could give more gives no less than anybody else, but for one.
    able = given_[given_ < capacity]
    assert not able.size or able.min() >= given_.max() - 1
