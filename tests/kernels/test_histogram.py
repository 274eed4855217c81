import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit

from thc_dask.kernels.histogram import ROOM_BYTES, Jobs, compiled, joint_counts

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


@given(st.data())
def test_blocks_of_any_shape_and_alignment_count_like_bincount(data):
    """Parts of larger blocks: lines that begin anywhere, rows that change anywhere or nowhere."""
    whole = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 40)))
    seed, n_rows = data.draw(st.integers(0, 2**31)), data.draw(st.integers(1, 256))
    rng = np.random.default_rng(seed)
    # Runs of one row, so that words of eight hold one, or several.
    steps = rng.random(whole) < data.draw(st.sampled_from([0, 0.05, 0.5]))
    rows = (np.cumsum(steps).reshape(whole) % n_rows).astype(np.uint8)
    image = rng.integers(0, 256, whole, np.uint8)
    starts = [data.draw(st.integers(0, n - 1)) for n in whole]
    part = tuple(
        slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, whole, strict=True)
    )
    table = np.zeros((image[part].shape[0], n_rows, 256), np.uint32)
    total = np.ones((n_rows, 256), np.uint32)
    met = joint_counts(rows[part], image[part], table, total)
    expected = np.zeros(table.shape, np.int64)
    z = np.broadcast_to(np.arange(len(table))[:, None, None], image[part].shape)
    np.add.at(expected, (z, rows[part], image[part]), 1)
    np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(total - 1, expected.sum(axis=0))
    assert met.tolist() == np.unique(rows[part]).tolist()
    one = int(rows[part].flat[0])
    again = np.zeros_like(table)
    assert joint_counts(one, image[part], again).tolist() == [one]
    np.testing.assert_array_equal(again[:, one], expected.sum(axis=1))


def test_planes_beyond_what_a_tally_can_hold():
    """A tally counts to 65535; equal voxels fill one of four."""
    image = np.full((2, 300, 1000), 7, np.uint8)
    image[1, 5] = 9
    rows = np.zeros(image.shape, np.uint8)
    rows[:, ::2, ::3] = 2  # no word of one row
    for part in (np.s_[:], np.s_[:, :, 1:], np.s_[:, 3:290]):
        for by in (rows[part], 1):
            table = np.zeros((2, 3, 256), np.uint32)
            joint_counts(by, image[part], table)
            every = np.broadcast_to(by, image[part].shape)
            expected = [
                np.bincount((every[z].astype(int) * 256 + image[part][z]).ravel(), minlength=768)
                for z in range(2)
            ]
            np.testing.assert_array_equal(table.reshape(2, -1), expected)


def test_several_blocks_in_one_go():
    rng = np.random.default_rng(4)
    image, rows = (
        rng.integers(0, 256, (3, 5, 6, 7), np.uint8),
        rng.integers(0, 2, (3, 5, 6, 7), np.uint8),
    )
    table, total = np.zeros((9, 2, 256), np.uint32), np.zeros((3, 2, 256), np.uint32)
    jobs = Jobs(table, total)
    for i, plane in enumerate((0, 4, 2)):
        jobs.add(rows[i] if i else 1, image[i], plane, i)
    met = jobs.run() != 0
    rows[0] = 1
    expected = np.zeros((9, 2, 256), int)
    for i, plane in enumerate((0, 4, 2)):
        for z in range(5):
            np.add.at(expected, (plane + z, rows[i, z], image[i, z]), 1)
        np.testing.assert_array_equal(
            total[i], np.histogram2d(rows[i].ravel(), image[i].ravel(), [range(3), range(257)])[0]
        )
    np.testing.assert_array_equal(table, expected)
    assert met.tolist() == [[False, True], [True, True], [True, True]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_has_no_place_is_an_error_and_leaves_nothing_behind(dtype):
    table = np.zeros((1, 2, 4), np.uint32)
    block = np.zeros((1, 3, 9), dtype)
    high = block.copy()
    high[0, 2, 8] = 200
    with pytest.raises(IndexError, match="row 200 in a table of 2"):
        joint_counts(high, block, table)
    with pytest.raises(IndexError, match=r"column .* in a table of 4"):
        joint_counts(block, high, table)
    with pytest.raises(IndexError, match="row 2 in a table of 2"):
        joint_counts(2, block, table)
    clean = np.zeros((1, 256, 256), np.uint32)
    joint_counts(block, block, clean)
    assert clean.sum() == clean[0, 0, 0] == 27


@given(st.data())
def test_whole_planes_of_one_row_count_like_bincount(data):
    """Which some processors count by the bits of vectors, in blocks of 512 voxels."""
    shape = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 90)), 64
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    low = data.draw(st.integers(0, 255))
    image = rng.integers(low, data.draw(st.integers(low + 1, 256)), shape, np.uint8)
    table, total = np.ones((shape[0], 3, 256), np.uint32), np.ones((3, 256), np.uint32)
    whole = data.draw(st.booleans())
    rows = 2 if whole else np.full(shape, 2, np.uint8)
    assert joint_counts(rows, image, table, total).tolist() == [2]
    assert (table[:, :2] == 1).all()
    expected = [np.bincount(plane.ravel(), minlength=256) + 1 for plane in image]
    np.testing.assert_array_equal(table[:, 2], expected)
    np.testing.assert_array_equal(total[2], np.sum(expected, axis=0) - len(expected) + 1)


def test_bits_of_vectors_are_counted_on_any_processor():
    rng = np.random.default_rng(0)
    memory = np.zeros(64 + compiled.ROOM_BYTES, np.uint8)
    room = memory.ctypes.data + -memory.ctypes.data % 64

    @njit
    def count(source, n, room, table, total):
        compiled._count_blocks(source, n, room, table, total)

    for n, high in ((1, 256), (3, 7), (8, 256), (8, 1)):
        voxels = rng.integers(0, high, 512 * n, np.uint8)
        table, total = np.zeros(256, np.uint32), np.ones(256, np.uint32)
        count(voxels.ctypes.data, n, room, table.ctypes.data, total.ctypes.data)
        np.testing.assert_array_equal(table, np.bincount(voxels, minlength=256))
        np.testing.assert_array_equal(total, table + 1)


def test_a_whole_plane_without_a_place_is_an_error():
    rows = np.full((1, 64, 64), 2, np.uint8)
    with pytest.raises(IndexError, match="row 2 in a table of 2"):
        joint_counts(rows, np.zeros_like(rows), np.zeros((1, 2, 256), np.uint32))


def test_room_is_as_large_as_machine_code_takes():
    assert compiled.ROOM_BYTES == ROOM_BYTES
