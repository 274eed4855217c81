import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.kernels.mean import mean

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=18)
TYPES = st.sampled_from([np.uint8, np.uint16])


def cells(block):
    """Yield each output index with the existing voxels under it."""
    for index in np.ndindex(*(-(-n // 2) for n in block.shape)):
        yield index, tuple(slice(2 * i, 2 * i + 2) for i in index)


@given(TYPES.flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)))
def test_mean_equals_the_naive_mean_of_existing_voxels(block):
    half = np.empty([-(-n // 2) for n in block.shape], block.dtype)
    mean(block, half)
    for index, where in cells(block):
        # np.rint rounds halves to even; the mean of at most 8 integers is exact in float64
        assert half[index] == np.rint(block[where].astype(np.float64).mean())


@given(hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=40), st.integers(0, 2**32))
def test_mean_of_views_and_wide_rows(shape, seed):
    whole = np.random.default_rng(seed).integers(0, 256, [n + 3 for n in shape], np.uint8)
    block = whole[tuple(slice(0, n) for n in shape)]
    half = np.empty([-(-n // 2) for n in shape], np.uint8)
    mean(block, half)
    for index, where in cells(block):
        assert half[index] == np.rint(block[where].astype(np.float64).mean())


@pytest.mark.parametrize("value", [0, 255])
def test_mean_keeps_the_extremes(value):
    block = np.full((4, 4, 4), value, np.uint8)
    half = np.empty((2, 2, 2), np.uint8)
    mean(block, half)
    assert (half == value).all()
