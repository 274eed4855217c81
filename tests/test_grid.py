from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assertions import known_mask
from tests.strategies import extents
from thc_dask.errors import RequestError
from thc_dask.grid import (
    Box,
    Extent,
    Grid,
    blocks,
    disjoint,
    parse_box,
    parse_extent,
    parse_spacing,
    parse_triple,
)

SMALL = (5, 6, 7)
um = st.floats(0.001, 1000)
sizes = st.integers(1, 300)


def triples(elements):
    return st.tuples(elements, elements, elements)


grids = st.builds(Grid, triples(sizes), triples(um), triples(st.floats(-1e4, 1e4)))


@given(grids, st.integers(0, 9))
def test_a_level_is_what_halving_gives(grid, k):
    level = grid.level(k)
    for axis in range(3):
        n, p, t = grid.shape[axis], Fraction(grid.spacing_um[axis]), Fraction(grid.origin_um[axis])
        assert level.shape[axis] == -(-n // 2**k)
        assert level.spacing_um[axis] == float(p * 2**k)
        # A voxel's centre is the mean of the centres it stands for, at the far end outside.
        first = sum(t + p * i for i in range(2**k)) / 2**k
        assert level.origin_um[axis] == pytest.approx(float(first), abs=1e-9)
        centres = level.coordinates(axis)
        assert centres.shape == (level.shape[axis],)
        last = float(first + p * 2**k * (level.shape[axis] - 1))
        assert centres[-1] == pytest.approx(last, abs=1e-9)
    for j in range(k + 1):
        assert grid.level(j).level(k - j).shape == level.shape


@given(grids, st.data())
def test_a_box_holds_the_voxels_whose_centre_is_inside(grid, data):
    ends = []
    for axis in range(3):
        centres, p = grid.coordinates(axis), grid.spacing_um[axis]
        # Exactly on centres, a hair beside them, on faces, and far away.
        on = st.sampled_from(centres.tolist())
        beside = st.tuples(on, st.sampled_from([-np.inf, np.inf])).map(lambda a: np.nextafter(*a))
        at = on | beside | on.map(lambda c, p=p: c + p / 2) | st.sampled_from([-np.inf, np.inf])
        ends.append(sorted(data.draw(st.tuples(at, at))))
    box = Box(tuple(float(a) for a, _ in ends), tuple(float(b) for _, b in ends))
    inside = [
        np.flatnonzero((grid.coordinates(axis) >= low) & (grid.coordinates(axis) < high))
        for axis, (low, high) in enumerate(ends)
    ]
    if all(found.size for found in inside):
        extent = grid.extent_of(box)
        assert extent.start == tuple(found[0] for found in inside)
        assert extent.stop == tuple(found[-1] + 1 for found in inside)
    else:
        with pytest.raises(RequestError, match=r"holds no voxel centre|starts at"):
            grid.extent_of(box)


@pytest.mark.parametrize("start", [("a", "b", "c"), (0, 0), "0:1", (0, None, 0), 3])
def test_a_box_is_of_numbers(start):
    with pytest.raises(RequestError, match="give where it begins and ends as"):
        Box(start, (1, 1, 1))


def test_no_box_is_everything_and_an_open_end_too():
    grid = Grid(SMALL, (1.0, 2.0, 3.0), (10.0, 0.0, 0.0))
    assert grid.extent_of(None) == grid.extent == Extent((0, 0, 0), SMALL)
    assert grid.extent_of(parse_box(":,:,:")) == grid.extent
    assert grid.extent_of(parse_box("12:,:4.0,3:9.1")) == Extent((2, 0, 1), (5, 2, 4))
    assert grid.span() == "10:14,0:10,0:18"


@pytest.mark.parametrize("shape", [(0, 1, 1), (1, 1), (1, 1, -1)])
def test_grids_have_voxels(shape):
    with pytest.raises(RequestError, match="need three sizes"):
        Grid(shape, (1, 1, 1))


@pytest.mark.parametrize("um", [0.0, -1.0, np.nan, np.inf])
def test_voxels_have_a_size(um):
    with pytest.raises(RequestError, match="need three finite sizes above 0"):
        Grid((1, 1, 1), (1.0, um, 1.0))


@given(st.lists(extents(SMALL), max_size=5))
def test_disjoint_boxes_hold_the_same_voxels_once(boxes):
    found = disjoint(boxes)
    n = np.zeros(SMALL, int)
    for box in found:
        assert box.n_vox > 0
        n[box.slices] += 1
    assert n.max(initial=0) <= 1
    np.testing.assert_array_equal(n == 1, known_mask(SMALL, boxes))


@given(extents(SMALL), extents(SMALL))
def test_boxes_meet_where_their_voxels_do(a, b):
    both = known_mask(SMALL, [a]) & known_mask(SMALL, [b])
    assert a.intersect(b).n_vox == both.sum()
    if both.any():
        np.testing.assert_array_equal(known_mask(SMALL, [a.intersect(b)]), both)
    assert a.contains(b) == (known_mask(SMALL, [b]) <= known_mask(SMALL, [a])).all()
    assert a.shift((1, 2, 3)).shift((-1, -2, -3)) == a


@given(extents(SMALL), st.integers(0, 3))
def test_a_coarser_box_holds_every_voxel_that_stands_for_one_inside(box, k):
    coarse = {tuple(i // 2**k for i in index) for index in np.argwhere(known_mask(SMALL, [box]))}
    level = box.level(k)
    starts = np.array(level.start)
    assert coarse == {tuple(starts + index) for index in np.ndindex(*level.shape)}


@given(triples(st.integers(1, 9)), triples(st.integers(1, 4)))
def test_blocks_tile_x_fastest(shape, size):
    found = list(blocks(shape, size))
    n = np.zeros(shape, int)
    for box in found:
        n[box.slices] += 1
        assert all(a <= b for a, b in zip(box.shape, size, strict=True))
    assert (n == 1).all()
    assert [box.start for box in found] == sorted(box.start for box in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.17um", (1.17, 1.17, 1.17)),
        ("1170nm", (1.17, 1.17, 1.17)),
        ("0.00117mm", (1.17, 1.17, 1.17)),
        ("1.17 µm", (1.17, 1.17, 1.17)),  # micro sign
        ("1.17μm", (1.17, 1.17, 1.17)),  # Greek mu
        ("2e0um, 1e-1um ,3micron", (2.0, 0.1, 3.0)),
    ],
)
def test_spacing_is_in_micrometers(text, expected):
    assert parse_spacing(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.17", "'1.17' has no unit; write it like 1.17um"),
        ("1.17px", "unknown unit 'px'; known: nm, um"),
        ("um", "'um' is not a length"),
        ("", "'' is not a length"),
        ("1..2um", "'1..2' is not a number"),
        ("0um", "must be above 0"),
        ("-1um", "must be above 0"),
        ("1um,2um", "give one length, or three as z,y,x"),
        ("1e999um", "must be above 0|finite"),
    ],
)
def test_spacings_that_say_nothing(text, message):
    with pytest.raises(RequestError, match=message):
        parse_spacing(text)


def test_triples_boxes_and_extents_are_read_as_z_y_x():
    assert parse_triple("720,1420,5805", "shape") == (720, 1420, 5805)
    assert parse_triple("0", "offset", low=0) == (0, 0, 0)
    assert parse_box("-1:2.5,0:1e3,:") == Box((-1, 0, -np.inf), (2.5, 1000, np.inf))
    assert parse_extent("0:1,343:1200,904:5657") == Extent((0, 343, 904), (1, 1200, 5657))
    assert parse_extent(":,3:,:4", SMALL) == Extent((0, 3, 0), (5, 6, 4))
    assert str(parse_extent("0:1,2:3,4:5")) == "0:1,2:3,4:5"
    assert str(parse_box("0:1.5,2:3,4:5")) == "0:1.5,2:3,4:5"


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_box, "0:1,0:1", "write it as z0:z1,y0:y1,x0:x1"),
        (parse_box, "0:1,0:1,0-1", "write it as z0:z1,y0:y1,x0:x1"),
        (parse_box, "0:1,0:1,0:a", "give numbers, in micrometers"),
        (parse_box, "0:1,0:1,0:nan", "give numbers, in micrometers"),
        (parse_extent, "0:1,0:1,0:1.5", "give whole numbers of voxels"),
        (parse_extent, "0:1,0:1,1:1", "along x give 0 <= start < stop"),
        (parse_extent, "-1:1,0:1,0:1", "along z give 0 <= start < stop"),
        (parse_extent, "0:1,0:,0:1", "give both ends of y"),
        (lambda text: parse_triple(text, "chunk"), "64,64", "chunk '64,64': give whole numbers"),
        (lambda text: parse_triple(text, "chunk"), "0", "of at least 1 as z,y,x"),
        (lambda text: parse_triple(text, "chunk"), "a", "of at least 1 as z,y,x"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(parse, text, message):
    with pytest.raises(RequestError, match=message):
        parse(text)
