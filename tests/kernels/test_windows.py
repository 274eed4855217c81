"""Windows inside one region, against looking at every voxel of every window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thc_dask.kernels import windows
from thc_dask.kernels.windows import largest_windows, uniform_windows


def naive(numbers, size):
    """Return the number of each window, by looking at all its voxels."""
    h, w = size
    shape = tuple(max(0, n - s + 1) for n, s in zip(numbers.shape, size, strict=True))
    found = np.zeros(shape, numbers.dtype)
    for y, x in np.ndindex(*shape):
        inside = np.unique(numbers[y : y + h, x : x + w])
        found[y, x] = inside[0] if len(inside) == 1 else 0
    return found


@st.composite
def planes(draw):
    """Clumps of a few numbers, with single voxels changed."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    side = draw(st.integers(1, 12))
    plane = rng.integers(0, 4, [-(-n // side) for n in shape]).repeat(side, 0).repeat(side, 1)
    plane = plane[: shape[0], : shape[1]].copy()
    for _ in range(draw(st.integers(0, 2))):
        plane[tuple(rng.integers(shape))] = rng.integers(0, 4)
    return plane.astype(draw(st.sampled_from([np.uint8, np.uint16])))


@given(planes(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([1, 40, 2**22]))
def test_every_window_is_as_its_voxels_say(plane, size, band):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "BAND_VOX", band)  # one row at a time, some, all of them
        found = uniform_windows(plane, size)
    assert found.dtype == plane.dtype
    np.testing.assert_array_equal(found, naive(plane, size))


def test_a_window_larger_than_the_plane_fits_nowhere():
    assert uniform_windows(np.ones((4, 9), np.uint8), (5, 2)).shape == (0, 8)
    assert uniform_windows(np.ones((4, 9), np.uint8), (4, 10)).size == 0


@given(planes(), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6))
def test_the_largest_that_fits_is_found(plane, steps):
    sizes = [(int(h), int(w)) for h, w in np.cumsum(steps, axis=0)]
    found = largest_windows(plane, sizes, 4)
    for number in range(1, 5):
        fits = [i for i, size in enumerate(sizes) if (naive(plane, size) == number).any()]
        assert found[number - 1] == max(fits, default=-1)
