import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import between_planes
from thc_dask.kernels.interpolate import compete, distances, fill


@st.composite
def planes(draw):
    """Two planes of clumps of numbers; 0 is not known."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    size, n = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = []
    for _ in range(2):
        clumps = rng.integers(0, n, [-(-s // size) for s in shape], np.uint8, endpoint=True)
        found.append(clumps.repeat(size, 0).repeat(size, 1)[: shape[0], : shape[1]])
        found[-1].flat[rng.integers(found[-1].size)] = 1
    return found


def interpolated(below, above, ends, spacing, sides=()):
    """Return the numbers between two planes, 0 where nobody knows."""
    pixels = np.flatnonzero((below != above) & (below > 0) & (above > 0))
    own = (below.ravel()[pixels], above.ravel()[pixels])
    present, outside, inside = zip(
        *(
            distances(plane, pixels, other[None], spacing, *sides)
            for plane, other in zip((below, above), own[::-1], strict=True)
        ),
        strict=True,
    )
    runs, unknown = compete(own, present, outside, inside, ends, range(ends[0] + 1, ends[1]))
    known = (below > 0) & (above > 0)
    known.ravel()[pixels[unknown]] = False
    out = np.repeat(below[None], ends[1] - ends[0] - 1, axis=0)
    places = np.divmod(pixels[runs[:, 0]], below.shape[1])
    fill(out, np.stack([*places, *runs[:, 1:].T], axis=1).astype(np.int32), (ends[0] + 1, 0, 0))
    return np.where(known, out, 0)


@settings(max_examples=300)
@given(
    planes(),
    st.integers(0, 4),
    st.integers(2, 9),
    st.sampled_from([(1.0, 1.0), (1.0, 2.5), (1.75, 1.0)]),
    st.sampled_from([(), (1, 1), (1, 4), (2, 3), (4, 8)]),
)
def test_runs_equal_the_largest_distance_voxel_by_voxel(pair, first, n, spacing, sides):
    found = interpolated(*pair, (first, first + n), spacing, sides)
    np.testing.assert_array_equal(found, between_planes(*pair, n, spacing))


def test_a_border_moves_evenly():
    """A straight border that is 10 pixels further on lies where the fraction of the way says."""
    below, above = (
        np.where(np.arange(40) < edge, 1, 2)[None].astype(np.uint8) for edge in (10, 20)
    )
    found = interpolated(below, above, (0, 10), (1.0, 1.0))
    assert [int((row == 1).sum()) for row in found[:, 0]] == [11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_equals_go_to_the_smallest_number():
    # Half way between the planes 3 and 7 are as far inside as each other.
    below, above = np.array([[3, 7, 7]], np.uint8), np.array([[3, 3, 7]], np.uint8)
    assert interpolated(below, above, (4, 6), (1.0, 1.0)).tolist() == [[[3, 3, 7]]]


def test_a_number_of_one_plane_alone_takes_no_part():
    below, above = np.array([[1, 1, 2, 2, 3]], np.uint8), np.array([[1, 2, 2, 2, 2]], np.uint8)
    # 3 ends somewhere: unknown. It still bounds 2 on the plane below.
    assert interpolated(below, above, (0, 2), (1.0, 1.0)).tolist() == [[[1, 1, 2, 2, 0]]]


def test_planes_without_a_number_in_common_foretell_nothing():
    below, above = np.full((2, 3), 1, np.uint8), np.full((2, 3), 2, np.uint8)
    assert not interpolated(below, above, (0, 5), (1.0, 1.0)).any()


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 1, 1), (5, 0, 3)])
def test_only_what_a_block_holds_is_filled(start):
    runs = np.array([[0, 0, 1, 4, 300], [1, 4, 2, 9, 5], [3, 2, 6, 7, 6]], np.int32)
    whole = np.zeros((8, 4, 5), np.uint16)
    for y, x, first, stop, code in runs:
        whole[first:stop, y, x] = code
    out = np.zeros((2, 2, 2), np.uint16)
    fill(out, runs, start)
    where = tuple(slice(a, a + 2) for a in start)
    np.testing.assert_array_equal(out, whole[where])
