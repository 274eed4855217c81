"""Mosaics against a blend of whole arrays in plain numpy."""

import json
import math
import os
import pickle
import threading
import warnings
from fractions import Fraction

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import Watched, source
from thc_dask import convert
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.reader import as_dataarray, read
from thc_dask.sources import mosaic as package
from thc_dask.sources import open_reader
from thc_dask.sources.mosaic import claims, open_mosaic
from thc_dask.sources.npy import open_npy

UM = (2.0, 1.17, 1.3)


def whole(reader):
    return read(reader, reader.grid.extent)


def noise(shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def manifest(folder, tiles, **fields):
    """Write a manifest of (path, offset) pairs."""
    entries = [{"path": str(path), "offset": [*offset]} for path, offset in tiles]
    path = folder / "mosaic.json"
    path.write_text(json.dumps({"spacing": "2um,1.17um,1.3um", "tiles": entries, **fields}))
    return path


def saved(folder, arrays, offsets, **fields):
    """Write arrays as .npy tiles, and their manifest."""
    for i, array in enumerate(arrays):
        np.save(folder / f"tile{i}.npy", array)
    names = [f"tile{i}.npy" for i in range(len(arrays))]
    return manifest(folder, list(zip(names, offsets, strict=True)), **fields)


def opened(path, spacing_um=None, open_tile=open_npy):
    return open_mosaic(path, spacing_um, open_tile)


def tent(n, feather):
    """Return the distance of n voxels from outside, at most ``feather``."""
    return [min(i + 1, n - i, feather) for i in range(n)]


def blended(arrays, offsets, feather=8192):
    """Return the mosaic as numpy makes it, all at once; integers by way of exact fractions."""
    low = np.min(offsets, axis=0)
    high = np.max([np.add(o, a.shape) for o, a in zip(offsets, arrays, strict=True)], axis=0)
    dtype = arrays[0].dtype
    exact = object if dtype.kind in "ui" else np.float64
    total, weight = np.zeros(high - low, exact), np.zeros(high - low, np.int64)
    n_tiles = np.zeros(high - low, int)
    result = np.zeros(high - low, dtype)
    for array, offset in zip(arrays, offsets, strict=True):
        z, y, x = (np.array(tent(n, feather)) for n in array.shape)
        here = z[:, None, None] * y[:, None] * x
        box = tuple(slice(a, a + n) for a, n in zip(offset - low, array.shape, strict=True))
        total[box] += here * array.astype(exact)
        weight[box] += here
        n_tiles[box] += 1
        result[box] = array
    for place in np.argwhere(n_tiles > 1):
        place = tuple(place)
        if exact is object:
            result[place] = round(Fraction(int(total[place]), int(weight[place])))
        else:
            result[place] = total[place] / weight[place]
    return result


@st.composite
def mosaics(draw, dtypes=("u1", "u2", "i2", "f4")):
    """A few small tiles near one another, most of them overlapping."""
    n = draw(st.integers(1, 5))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    arrays, offsets = [], []
    for _ in range(n):
        shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
        offsets.append(np.array(draw(st.tuples(*[st.integers(-6, 6)] * 3))))
        if dtype.kind == "f":
            arrays.append(rng.standard_normal(shape).astype(dtype))
        else:
            info = np.iinfo(dtype)
            arrays.append(rng.integers(info.min, info.max, shape, dtype, endpoint=True))
    return arrays, offsets


def quietly(path, **options):
    """Open a mosaic that may have tiles by themselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "mosaic: .* touches no other")
        return opened(path, **options)


# --- the same voxels as numpy blends ----------------------------------------------------------


@settings(max_examples=80)
@given(mosaics(), st.sampled_from([None, 1, 2, 5]), st.data())
def test_random_tiles_and_blocks(tmp_path_factory, tiles, feather, data):
    arrays, offsets = tiles
    fields = {} if feather is None else {"feather": feather}
    folder = tmp_path_factory.mktemp("mosaic")
    reader = quietly(saved(folder, arrays, [o.tolist() for o in offsets], **fields))
    expected = blended(arrays, offsets, feather or 8192)
    assert (reader.dtype, reader.grid.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(whole(reader), expected)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in expected.shape)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(expected.shape, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    out = np.ones([n + 3 for n in shape], reader.dtype)[1:-2, 2:-1, 1:-2]
    reader.read_into(out, start)
    np.testing.assert_array_equal(out, expected[box])


@settings(max_examples=30)
@given(mosaics(dtypes=("i4", "u4", "f8")))
def test_wide_voxels_are_averaged_in_float64(tmp_path_factory, tiles):
    arrays, offsets = tiles
    path = saved(tmp_path_factory.mktemp("mosaic"), arrays, [o.tolist() for o in offsets])
    found, expected = whole(quietly(path)), blended(arrays, offsets)
    atol = 1 if expected.dtype.kind in "ui" else 0
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=1e-15, atol=atol)


@settings(max_examples=30)
@given(mosaics(dtypes=("u1", "i8", "f4")))
def test_without_feather_each_voxel_is_one_of_a_tile(tmp_path_factory, tiles):
    arrays, offsets = tiles
    path = saved(tmp_path_factory.mktemp("m"), arrays, [o.tolist() for o in offsets], feather=0)
    found = whole(quietly(path))
    low = np.min(offsets, axis=0)
    expected, best = np.zeros_like(found), np.zeros(found.shape, int)
    for array, offset in zip(arrays, offsets, strict=True):
        for place in np.ndindex(array.shape):
            deep = math.prod(min(i + 1, n - i) for i, n in zip(place, array.shape, strict=True))
            there = tuple(offset - low + place)
            if deep > best[there]:
                expected[there], best[there] = array[place], deep
    np.testing.assert_array_equal(found, expected)


def test_the_geometry_of_the_paper(tmp_path, monkeypatch):
    """Tiles of 1920 x 1920 x 1200 (x, y, z), 10 % of them shared, a hundredth of their size."""
    monkeypatch.setattr(package, "STEP_BYTES", 19 * 19 * 3)
    offsets = [(z, y, x) for z in (0, 11) for y in (0, 17, 34) for x in (0, 17, 34, 52)]
    arrays = [noise((12, 19, 19), seed=i) for i in range(len(offsets))]
    reader = opened(saved(tmp_path, arrays, offsets))
    assert reader.grid.shape == (23, 53, 71)
    expected = blended(arrays, np.array(offsets))
    np.testing.assert_array_equal(whole(reader), expected)
    lazy = as_dataarray(reader, chunk=(7, 20, 13))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), expected)


def test_a_ramp_over_the_overlap(tmp_path):
    arrays = [np.full((2, 5, 20), v, "u2") for v in (100, 1200)]
    reader = opened(saved(tmp_path, arrays, [(0, 0, 0), (0, 0, 10)]))
    expected = [100] * 10 + [100 * i + 100 for i in range(1, 11)] + [1200] * 10
    assert (whole(reader) == np.array(expected)).all()
    reader = opened(saved(tmp_path, arrays, [(0, 0, 0), (0, 0, 10)], feather=1))
    assert (whole(reader) == np.array([100] * 10 + [650] * 10 + [1200] * 10)).all()


def test_halves_go_to_the_even_side(tmp_path):
    arrays = [np.arange(8, dtype="i2").reshape(1, 1, 8) - 4 + i for i in range(2)]
    found = whole(opened(saved(tmp_path, arrays, [(0, 0, 0)] * 2)))
    # means: -3.5 -2.5 -1.5 -0.5 0.5 1.5 2.5 3.5
    assert found.ravel().tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


def test_flat_tiles_stay_flat(tmp_path):
    """Nothing is added by weighing, whatever the weights: not a bit."""
    for dtype, value in (("u1", 255), ("u2", 65535), ("i4", -(2**31)), ("u4", 2**32 - 1)):
        arrays = [np.full((5, 6, 7), value, dtype)] * 4
        offsets = [(0, 0, 0), (1, 2, 3), (2, 3, 5), (3, 1, 1)]
        found = whole(opened(saved(tmp_path, arrays, offsets)))
        assert set(np.unique(found).tolist()) == {0, value}


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("feather", [{}, {"feather": 0}, {"feather": 1}])
@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_what_is_not_finite_has_no_weight(tmp_path, dtype, feather, odd):
    """Ones over twos: beside a gap of one tile stands the other's own value."""
    arrays = [np.full((2, 3, 8), 1, dtype), np.full((2, 3, 8), 2, dtype)]
    arrays[0][:, :, 6] = odd  # in both below
    arrays[0][1, 2, [0, 5]] = odd
    arrays[1][:, :, 2] = odd
    arrays[1][0, 1, [3, 7]] = odd
    reader = opened(saved(tmp_path, arrays, [(0, 0, 0), (0, 0, 4)], **feather))
    found = whole(reader)
    assert np.isposinf(found).any() == (odd == INF)
    lost = [(1, 2, 0), (0, 1, 11), *((z, y, 6) for z in range(2) for y in range(3))]
    assert {tuple(p) for p in np.argwhere(~np.isfinite(found))} == set(lost)
    np.testing.assert_array_equal(found[[0, 1], [1, 2], [7, 5]], [1, 2])
    whole_ones = [np.nan_to_num(a, nan=v, posinf=v, neginf=v) for v, a in enumerate(arrays, 1)]
    (tmp_path / "whole").mkdir()
    expected = whole(
        opened(saved(tmp_path / "whole", whole_ones, [(0, 0, 0), (0, 0, 4)], **feather))
    )
    same = np.isfinite(found)
    same[0, 1, 7] = same[1, 2, 5] = False
    np.testing.assert_array_equal(found[same], expected[same])


@settings(max_examples=40)
@given(mosaics(dtypes=("f4", "f8")), st.sampled_from([0, 1, 3, 8192]), st.data())
def test_random_gaps(tmp_path_factory, tiles, feather, data):
    arrays, offsets = tiles
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for array in arrays:
        gaps = rng.random(array.shape) < 0.5
        array[gaps] = rng.choice([NAN, INF, -INF], gaps.sum())
    folder = tmp_path_factory.mktemp("gaps")
    reader = quietly(saved(folder, arrays, [o.tolist() for o in offsets], feather=feather))
    found, low = whole(reader), np.min(offsets, axis=0)
    for place in np.ndindex(found.shape):
        layers = []
        for array, offset in zip(arrays, offsets, strict=True):
            at = tuple(np.array(place) - (offset - low))
            if all(0 <= i < n for i, n in zip(at, array.shape, strict=True)):
                ways = [
                    min(i + 1, n - i, feather or n) for i, n in zip(at, array.shape, strict=True)
                ]
                layers.append((math.prod(ways), float(array[at])))
        good = [(w, v) for w, v in layers if math.isfinite(v)]
        if good and feather:
            expected = sum(w * v for w, v in good) / sum(w for w, _ in good)
            assert found[place] == pytest.approx(expected, rel=1e-6, abs=1e-6)
        elif good or not feather:
            deepest = max(good or layers, key=lambda layer: layer[0], default=(0, 0.0))
            assert np.array_equal(found[place], deepest[1], equal_nan=True)
        else:
            expected = sum(v for _, v in layers)
            assert np.array_equal(found[place], expected, equal_nan=True)


# --- what is read ---------------------------------------------------------------------------


def test_only_tiles_below_a_block_are_read_and_only_there(tmp_path):
    arrays = [noise((6, 10, 10), seed=i) for i in range(3)]
    tiles = {f"{i}.x": Watched(source(a)) for i, a in enumerate(arrays)}
    path = manifest(tmp_path, [(f"{i}.x", (0, 0, 8 * i)) for i in range(3)])
    reader = opened(path, open_tile=lambda name, _: tiles[os.path.basename(name)])
    assert [tile.boxes for tile in tiles.values()] == [[], [], []]
    out = np.zeros((2, 3, 7), "u1")
    reader.read_into(out, (1, 2, 5))
    found = [[str(box) for box in tile.boxes] for tile in tiles.values()]
    assert found == [["1:3,2:5,5:10"], ["1:3,2:5,0:4"], []]
    np.testing.assert_array_equal(out, whole(reader)[1:3, 2:5, 5:12])


def test_a_block_of_one_tile_is_read_straight_into_place(tmp_path):
    class Straight(Watched):
        def read_into(self, out, start):
            self.outs = [*vars(self).get("outs", []), out]
            super().read_into(out, start)

    tile = Straight(source(noise((6, 10, 10))))
    path = manifest(tmp_path, [("a", (5, 5, 5))])
    reader = opened(path, open_tile=lambda *_: tile)
    out = np.zeros((2, 3, 4), "u1")
    reader.read_into(out, (1, 2, 3))
    assert [found is out for found in tile.outs] == [True]


def test_little_of_each_tile_is_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "STEP_BYTES", 2 * 10 * 18)
    arrays = [noise((7, 10, 10), seed=i) for i in range(2)]
    tiles = {f"{i}.x": Watched(source(a)) for i, a in enumerate(arrays)}
    path = manifest(tmp_path, [("0.x", (0, 0, 0)), ("1.x", (0, 0, 8))])
    reader = opened(path, open_tile=lambda name, _: tiles[os.path.basename(name)])
    out = np.zeros((5, 10, 18), "u1")
    reader.read_into(out, (1, 0, 0))
    assert [str(box) for box in tiles["0.x"].boxes] == [
        "1:2,0:10,0:10", "2:4,0:10,0:10", "4:6,0:10,0:10"
    ]  # fmt: skip
    np.testing.assert_array_equal(out, blended(arrays, np.array([(0, 0, 0), (0, 0, 8)]))[1:6])


def test_the_unit_is_that_of_the_tiles(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise((5, 20, 30)), compression="zlib", rowsperstrip=20)
    np.save(tmp_path / "b.npy", noise((4, 20, 30), seed=1))
    path = manifest(tmp_path, [("a.tif", (0, 0, 0)), ("b.npy", (0, 15, 5))])

    def open_tile(name, um):
        return open_npy(name, um) if name.endswith(".npy") else open_reader(name, um)

    reader = opened(path, open_tile=open_tile)
    assert reader.unit == (1, 20, 30)
    expected = blended(
        [noise((5, 20, 30)), noise((4, 20, 30), seed=1)], np.array([(0, 0, 0), (0, 15, 5)])
    )
    np.testing.assert_array_equal(whole(reader), expected)


# --- as a reader ------------------------------------------------------------------------------


def test_a_mosaic_of_tiff_stacks_becomes_a_store(tmp_path):
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    offsets = [(0, 0, 0), (0, 1, 50), (1, 40, 0), (0, 41, 51)]
    arrays = [noise((20, 48, 60), seed=i) for i in range(4)]
    for i, array in enumerate(arrays):
        tifffile.imwrite(tiles / f"{i}.tif", array)
    path = manifest(tmp_path, [(f"tiles/{i}.tif", o) for i, o in enumerate(offsets)])
    volume = convert(opened(path, open_tile=open_reader), tmp_path / "v.ome.zarr")
    np.testing.assert_array_equal(volume["0/image"], blended(arrays, np.array(offsets)))
    assert volume["0/image"].sizes == {"z": 21, "y": 89, "x": 111}
    np.testing.assert_allclose(volume["0/x"][:2], [0, 1.3])


def test_pickle_and_threads(tmp_path):
    arrays, offsets = [noise((9, 20, 30), seed=i) for i in range(2)], [(0, 0, 0), (2, 3, 20)]
    reader = pickle.loads(pickle.dumps(opened(saved(tmp_path, arrays, offsets))))
    outs = [np.zeros(reader.grid.shape, "u1") for _ in range(4)]
    threads = [threading.Thread(target=reader.read_into, args=(out, (0, 0, 0))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, blended(arrays, np.array(offsets)))


def test_the_mosaic_begins_with_its_first_tiles(tmp_path):
    path = saved(tmp_path, [noise((2, 3, 4))] * 2, [(-5, 10, 3), (-4, 12, 0)])
    grid = opened(path).grid
    assert (grid.shape, grid.spacing_um, grid.origin_um) == ((3, 5, 7), UM, (-10.0, 11.7, 0.0))


@pytest.mark.parametrize(
    ("given", "in_manifest", "expected"),
    [((9.0, 9.0, 9.0), "3um", 9), (None, "3um", 3), (None, None, 5)],
)
def test_spacing_of_the_caller_then_of_the_manifest_then_of_the_tiles(
    tmp_path, given, in_manifest, expected
):
    array = noise((2, 3, 4))
    fields = {} if in_manifest is None else {"spacing": in_manifest}
    entry = {"path": "a", "offset": [0, 0, 0]}
    (tmp_path / "m.json").write_text(json.dumps({"tiles": [entry], **fields}))
    tile = Watched(source(array, spacing_um=(5.0, 5.0, 5.0)))
    seen = []
    reader = opened(tmp_path / "m.json", given, lambda name, um: seen.append((name, um)) or tile)
    assert reader.grid.spacing_um == (expected,) * 3
    assert seen == [(str(tmp_path / "a"), None if expected == 5 else (expected,) * 3)]


def test_provenance_notices_a_change_and_not_a_move(tmp_path):
    (tmp_path / "a").mkdir()
    arrays, offsets = [noise((2, 3, 4))] * 2, [(0, 0, 0), (0, 0, 2)]
    path = saved(tmp_path / "a", arrays, offsets)
    first = opened(path).provenance
    assert first == opened(path, (1, 1, 1)).provenance
    assert json.loads(json.dumps(first)) == first
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "mosaic", "location": str(path), "n_tiles": 2, "feather": 8192,
        "shape": [2, 3, 6], "dtype": "uint8",
    }  # fmt: skip
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert opened(moved / path.name).provenance["fingerprint"] == first["fingerprint"]
    os.utime(moved / "tile1.npy", ns=(0, 1))
    second = opened(moved / path.name).provenance["fingerprint"]
    entries = [("tile0.npy", (0, 0, 0)), ("tile1.npy", (0, 0, 3))]
    third = opened(manifest(moved, entries)).provenance["fingerprint"]
    fourth = opened(manifest(moved, entries, feather=3)).provenance["fingerprint"]
    assert len({first["fingerprint"], second, third, fourth}) == 4


def test_wrong_buffers_are_refused(tmp_path):
    reader = opened(saved(tmp_path, [noise((3, 4, 5))] * 2, [(0, 0, 0), (0, 0, 4)]))
    for out, start in (
        (np.zeros((1, 1, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (0, 0, 9)),
        (np.zeros((1, 1, 1), "u1"), (0, -1, 0)),
        (np.zeros((4, 5), "u1"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="mosaic: cannot give"):
            reader.read_into(out, start)
    reader.read_into(np.zeros((0, 4, 9), "u1"), (3, 0, 0))


# --- warnings -----------------------------------------------------------------------------------


def test_offsets_between_voxels_are_rounded_with_a_warning(tmp_path):
    arrays = [noise((4, 5, 6), seed=i) for i in range(2)]
    path = saved(tmp_path, arrays, [(0, 0, 0), (0.4, 2.5, -3.6)])
    says = r"the offset \[0\.4, 2\.5, -3\.6\] of tile tile1\.npy is rounded to \[0, 2, -4\]"
    with pytest.warns(UserWarning, match=says) as caught:
        reader = opened(path)
    assert len(caught) == 1
    np.testing.assert_array_equal(whole(reader), blended(arrays, np.array([(0, 0, 0), (0, 2, -4)])))


def test_whole_offsets_written_as_floats_are_as_good(tmp_path):
    path = saved(tmp_path, [noise((4, 5, 6))] * 2, [(0.0, 0.0, 0.0), (0.0, 2.0, 4.0)])
    assert opened(path).grid.shape == (4, 7, 10)


@pytest.mark.filterwarnings("ignore:mosaic. .* touches no other")
def test_tiles_impossibly_far_apart_are_refused(tmp_path):
    path = saved(tmp_path, [noise((4, 5, 6))] * 2, [(0, 0, 0), (0, 10**9, 10**9)])
    with pytest.raises(
        RequestError, match=r"tiles of 240 voxels over \[4, 1000000005, 1000000006\]"
    ):
        opened(path)


def test_a_tile_by_itself_is_warned_of(tmp_path):
    arrays = [noise((4, 5, 6), seed=i) for i in range(3)]
    path = saved(tmp_path, arrays, [(0, 0, 0), (0, 5, 0), (0, 0, 7)])
    says = r"mosaic\.json: tile tile2\.npy at \[0, 0, 7\] touches no other; check its offset"
    with pytest.warns(UserWarning, match=says) as caught:
        reader = opened(path)
    assert len(caught) == 1
    found = whole(reader)
    np.testing.assert_array_equal(found[:, 5:, :6], arrays[1])
    np.testing.assert_array_equal(found[:, :5, 7:], arrays[2])
    assert not found[:, 5:, 6:].any()
    assert not found[:, :, 6].any()


# --- bad input ------------------------------------------------------------------------------


def refused(error, match, path, spacing_um=None, open_tile=open_npy):
    with pytest.raises(error, match=match) as caught:
        opened(path, spacing_um, open_tile)
    assert "\n" not in str(caught.value)


A = {"path": "a.npy", "offset": [0, 0, 0]}
MALFORMED = [
    ("{", r"is not JSON: .* line 1 column 2"),
    ("\x00", r"is not JSON: .* line 1 column 1"),
    ("[" * 10**5, "is not JSON: maximum recursion depth exceeded .*; write"),
    ("[]", "has no list of tiles; write"),
    ('{"tiles": 5}', "has no list of tiles; write"),
    ({"tiles": []}, "names no tiles; write"),
    ({"tiles": [A], "fether": 1}, "'fether' is not known; allowed: feather, spacing, tiles"),
    ({"tiles": [A, "a.npy"]}, r"tiles\[1\]: write \{\"path\": \"a\.tif\", \"offset\""),
    ({"tiles": [A, {"path": "a.npy"}]}, r"tiles\[1\]: write"),
    ({"tiles": [{**A, "scale": 2}]}, r"tiles\[0\]: write"),
    ({"tiles": [{**A, "path": 3}]}, r"tiles\[0\]: path 3 is not the name of a file"),
    ({"tiles": [{**A, "path": ""}]}, r"tiles\[0\]: path '' is not the name"),
    ({"tiles": [{**A, "path": "mosaic.json"}]}, r"tiles\[0\]: mosaic\.json is a mosaic itself"),
    ({"tiles": [{**A, "offset": [1, 2]}]}, r"tiles\[0\]: offset \[1, 2\] of a\.npy is not three"),
    ({"tiles": [{**A, "offset": [1, 2, "3"]}]}, r"\[1, 2, '3'\] of a\.npy is not three numbers"),
    ({"tiles": [{**A, "offset": [1, 2, True]}]}, "is not three numbers"),
    ({"tiles": [{**A, "offset": 3}]}, "offset 3 of a.npy is not three numbers"),
    ({"tiles": [{**A, "offset": [0, 0, math.nan]}]}, "is not three numbers"),
    ({"tiles": [{**A, "offset": [0, 0, math.inf]}]}, "is not three numbers"),
    ({"tiles": [{**A, "offset": [0, 0, 1e300]}]}, "is not three numbers"),
    ({"tiles": [A], "feather": -1}, "feather -1 is not a whole number of voxels from 0 to 8192"),
    ({"tiles": [A], "feather": 1.5}, "feather 1.5 is not a whole number"),
    ({"tiles": [A], "feather": True}, "feather True is not a whole number"),
    ({"tiles": [A], "feather": 9000}, "feather 9000 is not a whole number"),
    ({"tiles": [A], "spacing": "1.17"}, "spacing '1.17': '1.17' has no unit"),
    ({"tiles": [A], "spacing": 1.17}, "spacing: 1.17; write it like 1.17um"),
]


@pytest.mark.parametrize(("content", "says"), MALFORMED, ids=lambda value: str(value)[:60])
def test_malformed_manifests(tmp_path, content, says):
    np.save(tmp_path / "a.npy", noise((2, 3, 4)))
    path = tmp_path / "mosaic.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    refused(RequestError, rf"mosaic: .*mosaic\.json.*{says}", path, UM)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "m.json").write_bytes(b'{"tiles": "\xff\xfe"}')
    refused(RequestError, r"m\.json is not JSON", tmp_path / "m.json")


def test_no_manifest(tmp_path):
    refused(MissingError, r"mosaic: no such file: .*gone\.json; check", tmp_path / "gone.json")
    (tmp_path / "m.json").write_bytes(b"")
    refused(DataError, r"m\.json is empty \(0 bytes\)", tmp_path / "m.json")
    assert claims("a/m.JSON")
    assert not claims("m.tif")


def test_a_missing_or_damaged_tile_is_named(tmp_path):
    path = saved(tmp_path, [noise((2, 3, 4))] * 2, [(0, 0, 0), (0, 0, 2)])
    (tmp_path / "tile1.npy").write_bytes(b"hello, world")
    refused(DataError, r"mosaic\.json: tile tile1\.npy: npy: .*tile1\.npy is not a readable", path)
    (tmp_path / "tile1.npy").unlink()
    refused(MissingError, r"mosaic\.json: tile tile1\.npy: npy: no such file: .*tile1", path)
    refused(
        MissingError, r"tile tile1\.npy: source .* does not exist", path, open_tile=missing_reader
    )


def missing_reader(name, um):
    return open_npy(name, um) if os.path.exists(name) else open_reader(name, um)


def test_a_tile_that_goes_while_it_is_read(tmp_path):
    reader = opened(saved(tmp_path, [noise((2, 3, 4))] * 2, [(0, 0, 0), (0, 0, 2)]))
    (tmp_path / "tile1.npy").unlink()
    with pytest.raises(DataError, match=r"tile1\.npy was there at opening, now: No such file"):
        whole(reader)
    reader.read_into(np.zeros((2, 3, 2), "u1"), (0, 0, 0))


def test_tiles_of_different_types(tmp_path):
    arrays = [noise((2, 3, 4)), noise((2, 3, 4), "u2")]
    path = saved(tmp_path, arrays, [(0, 0, 0), (0, 0, 2)])
    refused(RequestError, r"tile tile1\.npy is uint16, tile0\.npy is uint8; all tiles need", path)


def test_wide_integers_are_not_averaged(tmp_path):
    path = saved(tmp_path, [noise((2, 3, 4), "u8")] * 2, [(0, 0, 0), (0, 0, 2)])
    refused(RequestError, r'uint64 voxels cannot be averaged exactly; add "feather": 0', path)


def test_tiles_of_different_or_no_spacing(tmp_path):
    tiles = {
        str(i): Watched(source(noise((2, 3, 4)), spacing_um=(1.0, 1.0, 1.0 + i))) for i in (0, 1)
    }
    path = manifest(tmp_path, [("0", (0, 0, 0)), ("1", (0, 0, 2))])
    data = json.loads(path.read_text())
    del data["spacing"]
    path.write_text(json.dumps(data))

    def open_tile(name, _):
        return tiles[os.path.basename(name)]

    refused(
        RequestError, r"tile 1 has spacing \(1\.0, 1\.0, 2\.0\) um .*give one as --spacing", path,
        open_tile=open_tile,
    )  # fmt: skip
    assert opened(path, UM, open_tile).grid.spacing_um == UM
    (tmp_path / "m.json").write_text(json.dumps({"tiles": [A]}))
    np.save(tmp_path / "a.npy", noise((2, 3, 4)))
    refused(RequestError, r"m\.json: tile a\.npy: npy: no voxel size in", tmp_path / "m.json")


def test_tiles_with_axes_in_another_order(tmp_path):
    tile = Watched(source(noise((2, 3, 4))))
    vars(tile)["axes"] = "xyz"
    path = manifest(tmp_path, [("a", (0, 0, 0))])
    refused(
        RequestError, "tile a is stored as xyz; store it as zyx", path, open_tile=lambda *_: tile
    )


def test_tiles_from_elsewhere(tmp_path):
    path = manifest(
        tmp_path, [("phantom:8,16,24", (0, 0, 0)), ("phantom:8,16,24", (0, 0, 20))], spacing="2um"
    )
    reader = opened(path, open_tile=open_reader)
    tile = whole(open_reader("phantom:8,16,24", (2.0, 2.0, 2.0)))
    np.testing.assert_array_equal(
        whole(reader), blended([tile] * 2, np.array([[0, 0, 0], [0, 0, 20]]))
    )
    assert reader.provenance == opened(path, (1.0, 1.0, 1.0), open_reader).provenance
