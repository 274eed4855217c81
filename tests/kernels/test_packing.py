"""Windows that do not overlap: allowed ones, disjoint, and no room left for another."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.test_windows import planes
from thc_dask.kernels.packing import packed, scattered
from thc_dask.kernels.windows import uniform_windows

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 5))


def overlap(a, b, size):
    return all(abs(p - q) < s for p, q, s in zip(a, b, size, strict=True))


@pytest.mark.parametrize("how", [scattered, packed])
@given(plane=planes(), size=SIZES, seed=st.integers(0, 99))
def test_allowed_disjoint_and_full(how, plane, size, seed):
    windows = uniform_windows(plane, size)
    before = windows.copy()
    more = () if how is packed else (np.random.default_rng(seed),)
    found = how(windows, size, *more)
    np.testing.assert_array_equal(windows, before)  # the caller's stays as it was
    everywhere = [tuple(start) for starts in found.values() for start in starts.tolist()]
    for number, starts in found.items():
        assert all(windows[y, x] == number for y, x in starts.tolist())
    assert not any(overlap(a, b, size) for a, b in combinations(everywhere, 2))
    for place in zip(*np.nonzero(windows), strict=True):
        assert any(overlap(place, taken, size) for taken in everywhere), place


@given(st.tuples(st.integers(1, 30), st.integers(1, 30)), SIZES)
def test_a_rectangle_is_packed_as_full_as_can_be(shape, size):
    windows = uniform_windows(np.ones(shape, np.uint8), size)
    most = (shape[0] // size[0]) * (shape[1] // size[1])
    assert sum(map(len, packed(windows, size).values())) == most


def test_every_place_is_drawn_as_often_as_any_other():
    windows = np.array([[1, 0, 1, 1], [0, 0, 2, 0]], np.uint8)
    rng = np.random.default_rng(5)
    first = [scattered(windows, (1, 1), rng)[1][0] for _ in range(3000)]
    drawn = np.bincount([4 * y + x for y, x in first], minlength=4)
    assert drawn[1] == 0
    assert np.all(np.abs(drawn[[0, 2, 3]] - 1000) < 4 * np.sqrt(1000 * 2 / 3))


def test_the_seed_alone_decides():
    windows = np.ones((9, 9), np.uint8)
    one, again, other = (scattered(windows, (3, 3), np.random.default_rng(s))[1] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[:4], other[:4])
