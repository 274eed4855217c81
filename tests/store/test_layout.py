import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thc_dask.errors import RequestError
from thc_dask.grid import Grid, blocks
from thc_dask.store.layout import (
    default_chunk,
    default_levels,
    make_levels,
    plan_blocks,
    waves,
)

UM = (1.0, 1.0, 1.0)


def triples(elements):
    return st.tuples(elements, elements, elements)


@st.composite
def pyramids(draw, most=400):
    chunk = draw(triples(st.integers(1, 5).map(lambda n: 2 * n)))
    shard = tuple(c * draw(st.integers(1, 8)) for c in chunk)
    shape = draw(triples(st.integers(1, most)))
    return make_levels(Grid(shape, UM), draw(st.integers(1, 12)), chunk, shard), chunk, shard


@given(pyramids(most=10_000))
def test_shards_of_a_wave_lie_on_one_another(pyramid):
    levels, chunk, shard = pyramid
    assert [level.index for level in levels] == list(range(len(levels)))
    for run in waves(levels):
        top = run[0]
        fits = [n <= c for n, c in zip(top.grid.shape, chunk, strict=True)]
        for level in run:
            for axis, n in enumerate(level.grid.shape):
                if fits[axis]:
                    assert level.chunk[axis] == level.shard[axis] == n
                    continue
                assert level.chunk[axis] == chunk[axis]
                assert level.shard[axis] % chunk[axis] == 0
                # The same microns, so the same number of shards, whatever the far end.
                assert level.shard[axis] * 2 ** (level.index - top.index) == shard[axis]
                assert -(-n // level.shard[axis]) == -(-top.grid.shape[axis] // shard[axis])
        assert len({level.n_shards for level in run}) == 1
    # A wave ends only where a shard cannot be halved into whole chunks.
    for run in list(waves(levels))[:-1]:
        top, last = run[0].grid.shape, run[-1]
        assert any(n > c and s % (2 * c) for s, c, n in zip(last.shard, chunk, top, strict=True))


@settings(max_examples=50)
@given(
    pyramids(most=60), triples(st.integers(1, 70)), st.integers(1, 2), st.integers(1, 10**6)
)  # fmt: skip
def test_blocks_are_whole_shards_and_decode_what_they_say(pyramid, unit, itemsize, memory_bytes):
    level = pyramid[0][0]
    shape = level.grid.shape
    plan = plan_blocks(level, unit, itemsize, memory_bytes)
    written = np.zeros(shape, int)
    decoded = 0
    for box in plan.boxes:
        written[box.slices] += 1
        for start, stop, shard, n in zip(box.start, box.stop, level.shard, shape, strict=True):
            assert start % shard == 0
            assert stop % shard == 0 or stop == n
        for part in blocks(box.shape, (plan.depth, plan.rows, box.shape[2])):
            slab = list(zip(part.shift(box.start).start, part.shift(box.start).stop, strict=True))
            decoded += math.prod(
                min(n, math.ceil(b / u) * u) - a // u * u
                for (a, b), u, n in zip(slab, unit, shape, strict=True)
            )
    assert (written == 1).all()
    assert plan.waste == pytest.approx(decoded / math.prod(shape))
    everything = plan_blocks(level, unit, itemsize, 2**60)
    assert everything.waste <= 1.02
    assert plan.memory_bytes <= max(
        memory_bytes, plan_blocks(level, unit, itemsize, 1).memory_bytes
    )


def test_the_reference_volume_takes_the_documented_path():
    grid = Grid((720, 1420, 5805), UM)
    levels = make_levels(grid)
    assert [level.grid.shape[2] for level in levels] == [5805, 2903, 1452, 726, 363, 182]
    assert [level.wave for level in levels] == [0, 0, 0, 1, 1, 1]
    assert {level.chunk for level in levels[:3]} == {(64, 64, 64)}
    assert [level.shard[0] for level in levels] == [256, 128, 64, 256, 128, 64]
    assert levels[0].n_shards == 3 * 6 * 23


def test_a_thousand_times_larger_takes_the_same_path():
    levels = make_levels(Grid((7200, 14200, 58050), UM))
    assert levels[0].shard == (256, 256, 256)
    assert max(levels[-1].grid.shape) <= 256 < max(levels[-2].grid.shape)
    plan = plan_blocks(levels[0], (1, 14200, 58050), 1, 2**30)
    assert plan.memory_bytes <= 2**30
    assert sum(box.n_vox for box in plan.boxes) == levels[0].grid.n_vox


def test_defaults_follow_the_shape():
    assert default_chunk((64, 9, 9)) == default_chunk((720, 1420, 5805)) == (64, 64, 64)
    assert default_chunk((16, 999, 999)) == (64, 128, 128)
    assert default_chunk((1, 999, 999)) == (64, 512, 512)
    assert default_levels(Grid((1, 256, 3), UM)) == 1
    assert default_levels(Grid((1, 257, 3), UM)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_levels": 0}, "levels 0: give 1 to 24"),
        ({"n_levels": 25}, "levels 25: give 1 to 24"),
        ({"chunk": (3, 4, 4)}, "along z the chunk must be even"),
        ({"chunk": (4, 0, 4)}, "along y the chunk must be even"),
        (
            {"chunk": (4, 4, 4), "shard": (8, 8, 10)},
            "along x .* such as a chunk of 4 and a shard of 16",
        ),
        ({"chunk": (4, 4, 4), "shard": (8, 8, 0)}, "along x .* the shard a multiple of it"),
    ],
)
def test_layouts_that_cannot_be(options, message):
    with pytest.raises(RequestError, match=message):
        make_levels(Grid((9, 9, 9), UM), **options)
