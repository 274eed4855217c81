import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.assertions import known_mask
from tests.strategies import extents
from thc_dask.gaps import gaps, held_out, piled, without_tiles
from thc_dask.grid import Extent, disjoint

SHAPE = (12, 7, 8)


def runs_of(column):
    """Return the runs of planes that a column is known on."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@given(st.lists(extents(SHAPE), min_size=1, max_size=6))
def test_gaps_are_what_lies_between_known_planes_of_each_column(known):
    mask = known_mask(SHAPE, known)
    between, held = set(), set()
    for y in range(SHAPE[1]):
        for x in range(SHAPE[2]):
            runs = runs_of(mask[:, y, x])
            pairs = itertools.pairwise(runs)
            between |= {(a[1] - 1, b[0], z, y, x) for a, b in pairs for z in range(a[1], b[0])}
            held |= {
                (runs[i - 1][1] - 1, runs[i + 1][0], z, y, x)
                for i in range(1, len(runs) - 1)
                for z in range(*runs[i])
            }
    for found, expected in ((gaps(known), between), (held_out(known), held)):
        voxels = [
            (gap.below, gap.above, int(z), int(y), int(x))
            for gap in found
            for box in gap.boxes
            for z, y, x in np.argwhere(known_mask(SHAPE, [box]))
        ]
        assert len(voxels) == len(set(voxels))
        assert set(voxels) == expected
        assert all({*range(b.start[0], b.stop[0])} == {*g.planes} for g in found for b in g.boxes)


@given(
    st.lists(extents(SHAPE), min_size=1, max_size=3),
    st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
    st.integers(1, 4),
)
def test_tiles_are_cut_out(boxes, tiles, side):
    boxes = disjoint(boxes)
    found = without_tiles(boxes, tiles, side)
    mask = known_mask(SHAPE, boxes)
    for y, x in tiles:
        mask[:, y * side : (y + 1) * side, x * side : (x + 1) * side] = False
    np.testing.assert_array_equal(known_mask(SHAPE, found), mask)
    assert sum(e.n_vox for e in found) == mask.sum()


def test_rows_of_tiles_become_few_boxes():
    tiles = [(y, x) for y in range(1, 5) for x in range(2, 6)]
    found = without_tiles([Extent((0, 0, 0), (1, 100, 100))], tiles, 10)
    assert sorted(map(str, found)) == [
        "0:1,0:10,0:100", "0:1,10:50,0:20", "0:1,10:50,60:100", "0:1,50:100,0:100"
    ]  # fmt: skip


def test_boxes_of_the_same_columns_are_joined():
    planes = [Extent((z, 0, 0), (z + 1, 4, 4)) for z in (3, 1, 2, 7)]
    assert [str(e) for e in piled(planes)] == ["1:4,0:4,0:4", "7:8,0:4,0:4"]
