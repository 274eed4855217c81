"""Small volumes, label sets and boxes that cut chunks, shards and waves in every way."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from hypothesis import strategies as st

from thc_dask.errors import DataError
from thc_dask.grid import Box, Extent
from thc_dask.schemes import Label, Scheme
from thc_dask.sources.dataarray import ArraySource, open_dataarray

LAYOUTS = [
    ((8, 8, 8), (32, 32, 32)),  # three levels a wave
    ((4, 8, 16), (16, 16, 32)),  # two
    ((8, 8, 8), (8, 8, 8)),  # one: a chunk is a shard
    ((2, 6, 4), (8, 12, 16)),
]


def source(array, spacing_um=(1.0, 1.0, 1.0), origin_um=(0.0, 0.0, 0.0), chunks=None):
    """Return an array as a source with coordinates in micrometers."""
    coords = {
        axis: origin_um[i] + spacing_um[i] * np.arange(array.shape[i])
        for i, axis in enumerate("zyx")
    }
    found = xr.DataArray(array, coords, ("z", "y", "x"), "voxels")
    return found if chunks is None else found.chunk(dict(zip("zyx", chunks, strict=True)))


class Watched(ArraySource):
    """A source that remembers which boxes were read, and may break at one of them."""

    def __init__(self, array, breaks_at=None, spacing_um=None):
        given = open_dataarray(array, spacing_um)
        super().__init__(given.array, given.grid)
        vars(self).update(boxes=[], breaks_at=breaks_at)

    def read_into(self, out, start):
        box = Extent(start, tuple(a + n for a, n in zip(start, out.shape, strict=True)))
        self.boxes.append(box)
        if self.breaks_at is not None and box.contains(Extent(self.breaks_at, self.breaks_at)):
            raise DataError(f"the source is damaged at {self.breaks_at}")
        super().read_into(out, start)


class Failing:
    """A reader that gives up after so many reads."""

    def __init__(self, reader, n):
        self._reader, self._left = reader, n

    def __getattr__(self, name):
        return getattr(self._reader, name)

    def read_into(self, out, start):
        self._left -= 1
        if self._left < 0:
            raise OSError("the source went away")
        return self._reader.read_into(out, start)


@dataclass(frozen=True)
class Volume:
    """An image and how its store is laid out."""

    array: np.ndarray
    spacing_um: tuple
    origin_um: tuple
    chunk: tuple
    shard: tuple
    n_levels: int

    @property
    def source(self):
        return source(self.array, self.spacing_um, self.origin_um)

    @property
    def options(self):
        """What ``convert`` is given besides source and store."""
        spacing = ",".join(f"{p!r}um" for p in self.spacing_um)
        return {
            "spacing": spacing, "levels": self.n_levels, "chunk": self.chunk, "shard": self.shard
        }  # fmt: skip

    def __repr__(self):  # hypothesis prints it
        return (
            f"Volume({self.array.shape}, {self.array.dtype}, um={self.spacing_um}, "
            f"t={self.origin_um}, chunk={self.chunk}, shard={self.shard}, n={self.n_levels})"
        )


@st.composite
def volumes(draw, dtypes=(np.uint8, np.uint16)):
    """Noise over the whole range, cut off so that chunks and shards of zeros occur."""
    chunk, shard = draw(st.sampled_from(LAYOUTS))
    sides = [st.integers(1, s + 13) for s in shard]
    shape = draw(st.tuples(*sides))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    array = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    array[: draw(st.integers(0, shape[0]))] = 0
    array[:, :, draw(st.integers(0, shape[2])) :] = 0
    um = st.floats(0.001, 1000)
    return Volume(
        array,
        draw(st.tuples(um, um, um)),
        draw(st.tuples(*[st.floats(-1e4, 1e4)] * 3)),
        chunk,
        shard,
        draw(st.integers(1, 6)),
    )


@st.composite
def schemes(draw, kind="region", most=5):
    """Codes with gaps, of one byte or two."""
    top = draw(st.sampled_from([255, 65535]))
    codes = sorted(draw(st.sets(st.integers(1, top), min_size=1, max_size=most)))
    labels = [Label(code, f"{kind}{code}") for code in codes]
    return Scheme(f"some-{kind}s", kind, (Label(0, "none"), *labels))


@st.composite
def label_arrays(draw, shape, scheme):
    """Clumps of the scheme's codes, zero among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 4))
    array = rng.choice(scheme.codes, [-(-n // size) for n in shape])
    for axis in range(3):
        array = array.repeat(size, axis)
    dtype = draw(st.sampled_from([np.uint16, np.int32, np.uint64]))
    return array[tuple(slice(0, n) for n in shape)].astype(dtype)


@st.composite
def extents(draw, shape):
    """A box of at least one voxel."""
    ends = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in shape]
    ends = [(a, max(b, a + 1)) for a, b in ends]
    return Extent(tuple(a for a, _ in ends), tuple(b for _, b in ends))


@st.composite
def boxes(draw, volume):
    """A box in micrometers whose faces lie on voxel centres, between them, or outside."""
    ends = []
    for n, p, t in zip(volume.array.shape, volume.spacing_um, volume.origin_um, strict=True):
        halves = st.integers(-3, 2 * n + 3).map(lambda i, p=p, t=t: t + p * (i / 2))
        low, high = draw(st.tuples(halves | st.just(-np.inf), halves | st.just(np.inf)))
        ends.append((min(low, high), max(low, high)))
    return Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
