import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.errors import RequestError
from thc_dask.kernels.intensity import (
    Window,
    bin_edges,
    counts_of,
    find_window,
    n_bins,
    to_uint8,
)

FLOATS = hnp.arrays(np.float32, st.tuples(*[st.integers(1, 5)] * 3))
FLOAT = np.dtype(np.float32)


@given(FLOATS)
def test_every_float_is_counted_in_the_bin_that_holds_it(block):
    bins, counts = counts_of([block[:1], block[1:]], FLOAT)
    assert counts.sum() == block.size
    assert counts.all()
    assert (np.diff(bins) > 0).all()
    finite = np.sort(block[np.isfinite(block)].astype(np.float64))
    low, high = bin_edges(bins, FLOAT)
    real = np.isfinite(low) & np.isfinite(high)
    assert counts[real].sum() == finite.size
    counted = np.repeat(np.stack([low[real], high[real]], axis=1), counts[real], axis=0)
    # Bins stand in the order of the numbers, so the sorted voxels fall into them one by one.
    assert ((counted[:, 0] <= finite) & (finite <= counted[:, 1])).all()


@given(hnp.arrays(np.uint16, st.tuples(*[st.integers(1, 5)] * 3)))
def test_whole_numbers_are_their_own_bins(block):
    bins, counts = counts_of([block[..., :1], block[..., 1:]], block.dtype)
    expected = np.bincount(block.ravel())
    np.testing.assert_array_equal(bins, np.flatnonzero(expected))
    np.testing.assert_array_equal(counts, expected[bins])


def test_what_fails_leaves_no_counts_behind():
    def parts():
        yield np.float32([[[1, 2, 3]]])
        raise OSError("went away")

    with pytest.raises(OSError, match="went away"):
        counts_of(parts(), FLOAT)
    _, counts = counts_of([np.float32([[[5]]])], FLOAT)
    assert counts.tolist() == [1]


@given(FLOATS, st.floats(-100, 100, width=32), st.floats(2**-10, 100, width=32))
def test_eight_bit_equals_the_rule_in_numpy(block, low, width):
    high = float(low) + float(width)
    # Memory of the caller, which need not lie in one piece.
    out, clipped = np.empty((*block.shape, 2), np.uint8)[..., 0], np.zeros(5, np.int64)
    to_uint8(block, Window(float(low), high), out, clipped)
    value = block.astype(np.float64)
    nan = np.isnan(value)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(255 * (np.clip(value, low, high) - low) / (high - low))
    np.testing.assert_array_equal(out, np.where(nan, 0, scaled).astype(np.uint8))
    infinite = [(value == -np.inf).sum(), (value == np.inf).sum()]
    assert clipped.tolist() == [(value < low).sum(), (value > high).sum(), nan.sum(), *infinite]


def test_the_ends_of_a_window_may_be_whole_numbers():
    block, out, clipped = np.float32([[[1, 3, 9]]]), np.empty((1, 1, 3), np.uint8), np.zeros(5, int)
    to_uint8(block, Window(2, 4), out, clipped)
    assert (out.tolist(), clipped.tolist()) == ([[[0, 128, 255]]], [1, 1, 0, 0, 0])


@given(hnp.arrays(np.uint16, st.integers(3, 60)), st.integers(0, 40), st.integers(60, 100))
def test_no_more_than_asked_for_is_clipped(values, low, high):
    table = np.bincount(values, minlength=65536)
    # The two ends, by the definition of a percentile that never lies between two values.
    first = np.sort(values)[min(int(values.size * low // 100), values.size - 1)]
    last = np.percentile(values, high, method="inverted_cdf")
    if first >= last:
        with pytest.raises(RequestError, match="all voxels are near"):
            find_window(table, values.dtype, low, high)
        return
    window = find_window(table, values.dtype, low, high)
    assert (window.low, window.high) == (first, last)
    assert (values < window.low).sum() <= values.size * low / 100
    assert (values > window.high).sum() <= values.size * (1 - high / 100) + 1e-9


def test_there_must_be_a_finite_voxel():
    table = np.zeros(n_bins(FLOAT), np.int64)
    bins, counts = counts_of([np.full((1, 1, 2), np.nan, np.float32)], FLOAT)
    table[bins] = counts
    with pytest.raises(RequestError, match="no voxel has a finite value"):
        find_window(table, FLOAT)


def test_a_window_is_no_wider_than_the_rule_can_reckon():
    with pytest.raises(RequestError, match="too wide for float64; give ends nearer zero"):
        Window(-1e308, 1e307)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, np.inf), (np.nan, 1)])
def test_a_window_has_two_ends(ends):
    with pytest.raises(RequestError, match="give two numbers, low first"):
        Window(*ends)
