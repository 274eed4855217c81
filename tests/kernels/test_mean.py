import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask import native
from thc_dask.kernels.mean import COMPILED, compile_mean, mean

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


@given(
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=40), st.integers(0, 2**32), TYPES
)
def test_mean_of_views_and_wide_rows(shape, seed, dtype):
    top = np.iinfo(dtype).max
    whole = np.random.default_rng(seed).integers(0, top, [n + 3 for n in shape], dtype, True)
    block = whole[tuple(slice(0, n) for n in shape)]
    half = np.empty([-(-n // 2) for n in shape], dtype)
    mean(block, half)
    for index, where in cells(block):
        assert half[index] == np.rint(block[where].astype(np.float64).mean())


@pytest.fixture(params=["machine code", "numpy"])
def means(request, monkeypatch):
    """How the mean of several blocks is taken; that of one is in numpy."""
    if request.param == "numpy":
        monkeypatch.setitem(native._ready, COMPILED, None)
        monkeypatch.setattr(native, "_load", lambda module, compile=True: None)
        assert native.ready(COMPILED) is None
    else:
        compile_mean()
        assert set(native.ready(COMPILED)) == {"uint8", "uint16"}


@pytest.mark.usefixtures("means")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TYPES, st.integers(1, 4), st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 2**32))
def test_mean_of_several_blocks_is_that_of_each(dtype, n, sizes, seed):
    shape = (n, *(2 * size for size in sizes))
    chunks = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, True)
    # As they lie in the next level: side by side along x, among others.
    z, y, x = sizes
    level = np.zeros((z, y + 1, n * x + (4 if seed % 2 else 3)), dtype)
    row = level[:, :y, : n * x]
    mean(chunks, row.reshape(z, y, n, x).transpose(2, 0, 1, 3))
    for i, chunk in enumerate(chunks):
        half = np.empty(sizes, dtype)
        mean(chunk, half)
        assert (row[:, :, i * x : (i + 1) * x] == half).all()
    assert not level[:, y:].any()
    assert not level[:, :, n * x :].any()


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.uint8, 0), (np.uint8, 255), (np.uint16, 65535), (np.dtype(">u2"), 7)]
)
def test_mean_keeps_the_extremes(dtype, value):
    block = np.full((4, 4, 8), value, dtype)
    half = np.empty((2, 2, 4), dtype)
    mean(block, half)
    assert (half == value).all()
