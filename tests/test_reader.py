from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import thc_dask.reader as module
from thc_dask.grid import Extent
from thc_dask.reader import pieces

SIZES = st.tuples(*[st.integers(1, 9)] * 3)


@dataclass
class Noted:
    """Voxels in memory, and the boxes that were asked for."""

    voxels: np.ndarray
    asked: list = field(default_factory=list)

    @property
    def dtype(self):
        return self.voxels.dtype

    def read_into(self, out, start):
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        self.asked.append(here)
        out[...] = self.voxels[here.slices]


@given(st.data(), SIZES, SIZES, st.integers(1, 300))
def test_pieces_tile_a_box_and_cut_no_unit_that_it_does_not_cut(data, shape, unit, most_bytes):
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    source = Noted(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    seen = np.full(shape, np.nan)
    before, module.PIECE_BYTES = module.PIECE_BYTES, most_bytes
    try:
        for box, voxels in pieces(source, unit, Extent(start, stop)):
            assert np.isnan(seen[box.slices]).all()
            seen[box.slices] = voxels
    finally:
        module.PIECE_BYTES = before
    inside = Extent(start, stop).slices
    np.testing.assert_array_equal(seen[inside], source.voxels[inside])
    assert np.isfinite(seen).sum() == seen[inside].size
    for axis, u in enumerate(unit):
        ends = sorted({e for box in source.asked for e in (box.start[axis], box.stop[axis])})
        assert all(a % u == 0 for a in ends[1:-1]), (ends, u)
        assert all(a < b for a, b in pairwise(ends))
    most = max(most_bytes, int(np.prod(unit)) * 4)
    assert all(box.n_vox * 4 <= most for box in source.asked)
