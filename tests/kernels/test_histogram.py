import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.kernels.histogram import joint_counts

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40))


@given(st.data(), SHAPES, st.sampled_from([np.uint8, np.uint16]))
def test_joint_counts_equal_bincount(data, shape, dtype):
    n_rows, n_columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 256))
    rows = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, n_rows - 1)))
    columns = data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, n_columns - 1)))
    table = np.ones((shape[0], n_rows, n_columns), np.uint32)
    joint_counts(rows, columns, table)
    pair = rows.astype(np.int64) * n_columns + columns
    expected = [np.bincount(plane.ravel(), minlength=n_rows * n_columns) for plane in pair]
    np.testing.assert_array_equal(table - 1, np.reshape(expected, table.shape))


def test_views_count_like_copies():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 64, 64), np.uint8)
    rows = rng.integers(0, 3, (4, 64, 64), np.uint8)
    table, again = np.zeros((4, 3, 256), np.uint32), np.zeros((4, 3, 256), np.uint32)
    part = (slice(None), slice(3, 50), slice(5, 47))
    joint_counts(rows[part], image[part], table)
    joint_counts(rows[part].copy(), image[part].copy(), again)
    np.testing.assert_array_equal(table, again)
    assert table.sum() == image[part].size


def test_a_value_without_a_place_is_an_error():
    table = np.zeros((1, 2, 256), np.uint32)
    with pytest.raises(IndexError, match="row 2 in a table of 2"):
        joint_counts(np.full((1, 1, 1), 2, np.uint8), np.zeros((1, 1, 1), np.uint8), table)
