import json
import pickle
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Delta, Zlib

from tests.assertions import read_voxels
from tests.object_storage import impatient
from thc_dask import convert, labels, verify
from thc_dask.errors import DataError, MissingError, ReadError, RequestError, UnfinishedError
from thc_dask.grid import Extent
from thc_dask.reader import as_dataarray, read
from thc_dask.sources import omezarr, open_reader
from thc_dask.sources.omezarr import ZarrArray, nodes, open_omezarr
from thc_dask.store.read import Store

UM = (2.0, 1.17, 1.3)
SHAPE = (7, 33, 41)
CHUNK = (3, 16, 20)


def noise(shape=SHAPE, dtype="uint16"):
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 200, shape).astype(dtype)


def whole(reader):
    return read(reader, reader.grid.extent)


def refused(error, match, location, spacing_um=UM):
    with pytest.raises(error, match=match) as caught:
        open_omezarr(location, spacing_um)
    assert "\n" not in str(caught.value)


def stored(path, array, **options):
    """Write an array by zarr-python, v3 unless told otherwise."""
    options = {"chunks": tuple(min(c, n) for c, n in zip(CHUNK, array.shape, strict=False))} | (
        options
    )
    if array.ndim > 3:
        options["chunks"] = tuple(min(16, n) for n in array.shape)
    dtype = options.pop("dtype", array.dtype)
    made = zarr.create_array(str(path), shape=array.shape, dtype=dtype, **options)
    made[...] = array
    return path


# --- the same voxels as zarr reads -----------------------------------------------------------

KINDS = {
    "v3": {},
    "v3 raw": {"compressors": None},
    "v3 sharded": {"shards": (6, 32, 40)},
    "v3 one chunk": {"chunks": SHAPE},
    "v2": {"zarr_format": 2},
    "v2 blosc": {"zarr_format": 2, "compressors": Blosc("lz4", 5, Blosc.BITSHUFFLE)},
    "v2 filters": {"zarr_format": 2, "filters": [Delta("<u2")], "compressors": Zlib(1)},
    "v2 nested": {
        "zarr_format": 2,
        "chunk_key_encoding": {"name": "v2", "separator": "/"},
        "order": "F",
    },
    "v2 big-endian": {"zarr_format": 2, "dtype": ">u2"},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    root = tmp_path_factory.mktemp("zarr")
    for name, options in KINDS.items():
        stored(root / name, noise(), **options)
    return root


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_storage(encoded, name):
    reader = open_omezarr(encoded / name, UM)
    assert reader.unit == (SHAPE if name == "v3 one chunk" else CHUNK)
    assert reader.grid.shape == SHAPE
    assert reader.grid.spacing_um == UM
    assert reader.grid.origin_um == (0.0, 0.0, 0.0)
    assert reader.axes == "zyx"
    assert reader.dtype == np.dtype("uint16")
    assert reader.dtype.isnative
    np.testing.assert_array_equal(whole(reader), noise())


@settings(max_examples=60)
@given(data=st.data(), piece_bytes=st.sampled_from([1, 5000, 2**25]))
def test_random_blocks(encoded, data, piece_bytes):
    name = data.draw(st.sampled_from(sorted(KINDS)))
    array = noise()
    reader = open_omezarr(encoded / name, UM)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in SHAPE)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(SHAPE, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    layout = data.draw(st.sampled_from(["new", "part", "transposed"]))
    if layout == "new":
        out = np.zeros(shape, "u2")
    elif layout == "part":
        out = np.zeros([n + 3 for n in shape], "u2")[1:-2, 2:-1, 1:-2]
    else:
        out = np.zeros(shape[::-1], "u2").T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omezarr, "PIECE_BYTES", piece_bytes)
        reader.read_into(out, start)
    np.testing.assert_array_equal(out, array[box])


def test_no_chunk_is_cut_by_the_pieces_of_a_read():
    for shape, unit, itemsize in (
        ((64, 500, 900), (64, 64, 64), 4),
        ((64, 3000, 5000), (64, 64, 64), 1),
        ((64, 3000, 5000), (1, 100, 100), 2),
        ((200, 30, 40), (7, 8, 9), 1),
    ):
        start = (unit[0] * 2 + 3, unit[1] + 5, 6)
        pieces = list(omezarr._pieces(start, shape, unit, itemsize))
        seen = np.zeros(shape[:2], int)
        for z, y, x in pieces:
            assert (x.start, x.stop) == (6, 6 + shape[2])
            for part, a, n, u in zip((z, y), start, shape, unit, strict=False):
                assert part.start in (a, *range(0, a + n, u))
                assert part.stop in (a + n, *range(0, a + n, u))
            seen[
                z.start - start[0] : z.stop - start[0], y.start - start[1] : y.stop - start[1]
            ] += 1
        assert (seen == 1).all()
        limit = max(omezarr.PIECE_BYTES, unit[0] * unit[1] * shape[2] * itemsize)
        sizes = [
            (z.stop - z.start) * (y.stop - y.start) * shape[2] * itemsize for z, y, _ in pieces
        ]
        assert max(sizes) <= limit
        assert len(pieces) <= 4 + 4 * sum(sizes) // limit


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "bool", "float16", "uint64"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_types(tmp_path, dtype, zarr_format):
    array = noise(dtype=dtype)
    reader = open_omezarr(stored(tmp_path / "a", array, zarr_format=zarr_format), UM)
    assert reader.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype))
    np.testing.assert_array_equal(whole(reader), array)


def test_nan_and_infinities_stay(tmp_path):
    array = np.array([[[np.nan, np.inf, -np.inf, -0.0]]], "f4")
    reader = open_omezarr(stored(tmp_path / "a", array), UM)
    assert whole(reader).tobytes() == array.tobytes()


def test_chunks_that_are_not_stored(tmp_path):
    made = zarr.create_array(
        str(tmp_path / "a"), shape=(4, 6, 8), chunks=(2, 3, 4), dtype="u2", fill_value=7
    )
    made[:2, :3, :4] = 1
    expected = np.full((4, 6, 8), 7)
    expected[:2, :3, :4] = 1
    np.testing.assert_array_equal(whole(open_omezarr(tmp_path / "a", UM)), expected)


# --- OME-Zarr --------------------------------------------------------------------------------


def scale(*values):
    return {"type": "scale", "scale": list(values)}


def translation(*values):
    return {"type": "translation", "translation": list(values)}


def image(path, levels, axes, version="0.5", common=None, unit="micrometer", **more):
    """Write a multiscale image: levels are (array, transformations)."""
    kinds = {"t": ("time", "second"), "c": ("channel", None)}
    described = [{"name": a, "type": kinds.get(a, ("space",))[0]} for a in axes]
    for axis in described:
        named = kinds[axis["name"]][1] if axis["name"] in kinds else unit
        if named:
            axis["unit"] = named
    datasets = [
        {"path": str(k), "coordinateTransformations": steps} for k, (_, steps) in enumerate(levels)
    ]
    multiscale = {"name": "an image", "axes": described, "datasets": datasets}
    if common is not None:
        multiscale["coordinateTransformations"] = common
    options = {"zarr_format": 2} if version == "0.4" else {"dimension_names": list(axes)}
    if version == "0.4":
        attributes = {"multiscales": [{**multiscale, "version": version}], **more}
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    else:
        attributes = {"ome": {"version": version, "multiscales": [multiscale], **more}}
    zarr.open_group(
        str(path), mode="w", zarr_format=options.get("zarr_format", 3), attributes=attributes
    )
    for k, (array, _) in enumerate(levels):
        stored(f"{path}/{k}", array, **options)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image(tmp_path, version):
    fine, coarse = noise((1, 1, *SHAPE)), noise((1, 1, 4, 17, 21))
    path = image(
        tmp_path / "a.zarr",
        [
            (fine, [scale(1, 1, *UM)]),
            (coarse, [scale(1, 1, 4, 2.34, 2.6), translation(0, 0, 1, 0.585, 0.65)]),
        ],
        "tczyx",
        version,
    )
    yaozarrs.validate_zarr_store(str(path))
    for location in (path, f"{path}/", f"{path}#level=0", f"{path}?level=0", f"{path}/0"):
        reader = open_omezarr(location)
        assert (reader.grid.shape, reader.grid.spacing_um) == (SHAPE, UM)
        assert reader.grid.origin_um == (0.0, 0.0, 0.0)
        assert reader.axes == "zyx"
        assert reader.unit == (7, 16, 16)
        assert reader.provenance["zarr_format"] == (2 if version == "0.4" else 3)
        np.testing.assert_array_equal(whole(reader), fine[0, 0])
    for location in (f"{path}#level=1", f"{path}/1"):
        reader = open_omezarr(location)
        assert reader.grid.spacing_um == (4, 2.34, 2.6)
        assert reader.grid.origin_um == (1, 0.585, 0.65)
        np.testing.assert_array_equal(whole(reader), coarse[0, 0])
    assert open_omezarr(path, (4.0, 5.0, 6.0)).grid.spacing_um == (4.0, 5.0, 6.0)
    refused(MissingError, r"a\.zarr has no level 2; it has 0 to 1", f"{path}#level=2")
    refused(RequestError, r"a\.zarr/1 is one array, so it has no level 0", f"{path}/1#level=0")


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("nanometer", 1e-3), ("millimeter", 1e3), ("angstrom", 1e-4), ("um", 1), ("micron", 1)],
)
def test_units(tmp_path, unit, factor):
    steps = [scale(2, 1.17, 1.3), translation(10, 20, -30)]
    path = image(tmp_path / "a.zarr", [(noise(), steps)], "zyx", unit=unit)
    grid = open_omezarr(path).grid
    assert grid.spacing_um == pytest.approx([2 * factor, 1.17 * factor, 1.3 * factor], rel=1e-15)
    assert grid.origin_um == pytest.approx([10 * factor, 20 * factor, -30 * factor], rel=1e-15)


def test_transformations_follow_one_another(tmp_path):
    steps = [{"type": "identity"}, scale(1, 2, 3), translation(10, 20, 30)]
    common = [scale(2, 2, 0.5), translation(1, 0, 0)]
    path = image(tmp_path / "a.zarr", [(noise(), steps)], "zyx", common=common)
    grid = open_omezarr(path).grid
    assert grid.spacing_um == (2, 4, 1.5)
    assert grid.origin_um == (21, 40, 15)


def test_axes_in_another_order(tmp_path):
    steps = [scale(1.3, 1, 1.17, 2), translation(30, 0, 20, 10)]
    path = image(tmp_path / "a.zarr", [(noise((4, 1, 5, 6)), steps)], "xcyz", "0.4")
    reader = open_omezarr(path)
    assert (reader.axes, reader.grid.shape) == ("xyz", (4, 5, 6))
    assert (reader.grid.spacing_um, reader.grid.origin_um) == ((1.3, 1.17, 2), (30, 20, 10))
    np.testing.assert_array_equal(whole(reader), noise((4, 1, 5, 6))[:, 0])
    assert open_omezarr(path, (7.0, 8.0, 9.0)).grid.spacing_um == (9.0, 8.0, 7.0)


def test_a_plane(tmp_path):
    plane = noise((33, 41))
    path = image(tmp_path / "a.zarr", [(plane, [scale(1.17, 1.3), translation(5, 6)])], "yx")
    refused(RequestError, r"no voxel size along z in .*a\.zarr/0; give it as", path, None)
    reader = open_omezarr(path, UM)
    assert (reader.grid.shape, reader.grid.origin_um) == ((1, 33, 41), (0, 5, 6))
    assert (reader.axes, reader.unit) == ("zyx", (1, 3, 16))
    np.testing.assert_array_equal(whole(reader)[0], plane)
    out = np.zeros((1, 5, 6), "u2")
    reader.read_into(out, (0, 7, 15))
    np.testing.assert_array_equal(out[0], plane[7:12, 15:21])


@pytest.mark.parametrize(
    ("axes", "shape", "sizes"),
    [
        ("czyx", (3, 4, 5, 6), "c=3, z=4, y=5, x=6"),
        ("tczyx", (2, 3, 4, 5, 6), "t=2, c=3, z=4, y=5, x=6"),
        ("tyx", (2, 5, 6), "t=2, y=5, x=6"),
    ],
)
def test_several_channels_or_times(tmp_path, axes, shape, sizes):
    path = image(tmp_path / "a.zarr", [(noise(shape), [scale(*[1] * len(shape))])], axes)
    refused(RequestError, rf"a\.zarr/0 has axes {sizes}; .* save one channel of one time", path)


def test_no_trustworthy_voxel_size(tmp_path):
    steps = [scale(2, 1.17, 1.3), translation(10, 20, 30)]
    for name, unit in (("none", None), ("pixel", "pixel")):
        path = image(tmp_path / name, [(noise(), steps)], "zyx", unit=unit)
        refused(RequestError, rf"no voxel size along z, y, x in .*{name}/0; give it", path, None)
        assert open_omezarr(path, UM).grid.origin_um == (0, 0, 0)
    path = image(tmp_path / "no scale", [(noise(), [])], "zyx")
    refused(RequestError, r"no voxel size along z, y, x in .*no scale/0", path, None)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "scale", "path": "scales"},
        {"type": "scale", "scale": [1, 2]},
        {"type": "scale", "scale": [1, 2, "a"]},
        {"type": "translation", "translation": [1, 2, float("inf")]},
        {"type": "rotation", "rotation": [1, 2, 3]},
        "scale",
    ],
)
def test_damaged_transformations(tmp_path, step):
    path = image(tmp_path / "a.zarr", [(noise(), [step])], "zyx", "0.4")
    refused(DataError, r"a\.zarr: a coordinate transformation must be a scale or a tr", path)


def test_metadata_that_do_not_fit(tmp_path):
    path = image(tmp_path / "a.zarr", [(noise((1, *SHAPE)), [scale(1, 1, 1)])], "zyx", "0.4")
    refused(DataError, r"a\.zarr names 3 axes, but its array has 4", path)
    path = image(tmp_path / "b.zarr", [(noise(), [scale(1, 0, 1)])], "zyx", "0.4")
    with pytest.raises(RequestError, match=r"three finite sizes above 0"):
        open_omezarr(path)


@pytest.mark.parametrize(
    "multiscale",
    [
        {"version": "0.2", "datasets": [{"path": "0"}]},
        {"version": "0.3", "axes": ["z", "y", "x"], "datasets": [{"path": "0"}]},
        {"version": "0.4", "axes": [{"name": "z"}, {"name": "y"}, {"name": "x"}]},
    ],
)
def test_other_versions(tmp_path, multiscale):
    path = tmp_path / "a.zarr"
    zarr.open_group(str(path), mode="w", zarr_format=2, attributes={"multiscales": [multiscale]})
    stored(path / "0", noise(), zarr_format=2)
    refused(RequestError, r"a\.zarr is a multiscale image of an unknown version; OME-Zarr 0\.4 and "
            r"0\.5 are known: name an array in it, and give --spacing", path)  # fmt: skip
    np.testing.assert_array_equal(whole(open_omezarr(path / "0", UM)), noise())


def test_a_level_that_is_missing(tmp_path):
    path = image(tmp_path / "a.zarr", [(noise(), [scale(1, 1, 1)])], "zyx")
    shutil.rmtree(path / "0")
    refused(MissingError, r"there is no zarr array or group at .*a\.zarr/0; check", path)
    zarr.open_group(str(path / "0"), mode="w")
    refused(DataError, r"a\.zarr/0 should be the array of level 0", path)


def test_labels_of_an_image(tmp_path):
    path = image(tmp_path / "a.zarr", [(noise(), [scale(*UM)])], "zyx")
    codes = noise(dtype="uint8")
    zarr.open_group(f"{path}/labels", mode="w", attributes={"ome": {"labels": ["roi"]}})
    image(f"{path}/labels/roi", [(codes, [scale(*UM), translation(1, 2, 3)])], "zyx")
    reader = open_omezarr(f"{path}/labels/roi")
    assert (reader.grid.spacing_um, reader.grid.origin_um) == (UM, (1, 2, 3))
    np.testing.assert_array_equal(whole(reader), codes)
    match = r"a\.zarr/labels is a group without an image of its own; .* of what it holds: roi/"
    refused(RequestError, match, f"{path}/labels")


# --- our own stores --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "volume.ome.zarr"
    options = {"chunk": (16, 16, 16), "shard": (32, 64, 64), "levels": 3}
    convert("phantom:32,64,96", path, spacing="1170nm", **options)
    labels("phantom:32,64,96?channel=roi", path, "roi", "prasad2020-roi", planes=[8, 16])
    return path


@pytest.mark.parametrize("level", [0, 1, 2])
def test_our_own_store(own, level):
    store = Store(own)
    for inside, expected in (("", store.image(level)), ("/labels/roi", store.label_set("roi"))):
        names = [f"{own}{inside}#level={level}", f"{own}{inside}/{level}"]
        names.append(f"{own}{inside}/{level}/{inside.split('/')[-1] or 'image'}")
        array = expected.array(level) if inside else expected
        for name in names:
            reader = open_omezarr(name)
            assert reader.grid == store.levels[level].grid
            assert reader.unit == array.chunk
            assert reader.dtype == array.dtype
            np.testing.assert_array_equal(whole(reader), whole_of(array))


def whole_of(array):
    out = np.empty(array.shape, array.dtype)
    array.read_into(out, (0, 0, 0))
    return out


def test_our_own_store_converts_to_itself(own, tmp_path):
    reader = open_omezarr(own)
    convert(reader, tmp_path / "again.ome.zarr")
    again = open_omezarr(tmp_path / "again.ome.zarr")
    assert again.grid == reader.grid
    np.testing.assert_array_equal(whole(again), whole(reader))


def test_another_conversion_is_another_source(own, tmp_path):
    copy = tmp_path / "copy.ome.zarr"
    options = {"chunk": (16, 16, 16), "shard": (32, 64, 64), "levels": 3}
    convert("phantom:32,64,96", copy, spacing="1170nm", **options)
    first = open_omezarr(copy).provenance
    shutil.rmtree(copy)
    convert("phantom:32,64,96?seed=5", copy, spacing="1170nm", **options)
    second = open_omezarr(copy).provenance
    assert first["fingerprint"] != second["fingerprint"]
    assert {**first, "fingerprint": 0} == {**second, "fingerprint": 0}


# --- other groups and arrays ---------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_of_xarray(tmp_path, zarr_format):
    coords = {
        "x": ("x", 5 + 1.17 * np.arange(41), {"units": "um"}),
        "y": ("y", 1300 * np.arange(33), {"units": "nm"}),
        "z": ("z", [0.002 * i for i in range(7)], {"units": "mm"}),
    }
    found = xr.DataArray(noise(), coords, ("z", "y", "x"), "image").transpose("x", "z", "y")
    data = xr.Dataset({"image": found, "mean": found.mean("x")})
    data.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    for name in ("a.zarr", "a.zarr/image"):
        reader = open_omezarr(tmp_path / name)
        assert reader.axes == "xzy"
        assert reader.grid.spacing_um == pytest.approx((1.17, 2, 1.3), rel=1e-12)
        assert reader.grid.origin_um == (5, 0, 0)
        np.testing.assert_array_equal(whole(reader), found)


def test_coordinates_that_say_nothing(tmp_path):
    path = with_coordinates(tmp_path / "a.zarr", z=[0, 1, 2, 4], y=[1, 1, 1, 1], x=[0, 1, 2, 3])
    refused(RequestError, r"no voxel size along z, y in .*a\.zarr/image", path, None)


def with_coordinates(path, units="um", **values):
    """Write an array with these coordinates by xarray."""
    attrs = {"units": units} if units else {}
    coords = {axis: (axis, np.float64(v), attrs) for axis, v in values.items()}
    found = xr.DataArray(noise((4, 4, 4)), coords, ("z", "y", "x"), "image")
    found.to_dataset().to_zarr(path, consolidated=False)
    return path


@pytest.mark.parametrize("spacing_um", [None, UM])
@pytest.mark.parametrize("units", ["um", None])
def test_coordinates_that_descend(tmp_path, units, spacing_um):
    path = with_coordinates(
        tmp_path / "a.zarr", units, z=[0, 1, 2, 3], y=[3, 2, 1, 0], x=[9, 5, 4, 3]
    )
    says = r"zarr: coordinates along y, x descend in .*a\.zarr/image; .* \.sortby\(\['y', 'x'\]\)"
    refused(RequestError, says, path, spacing_um)
    opened = xr.open_zarr(path, consolidated=False)["image"].sortby(["y", "x"])
    assert open_reader(opened, UM).grid.origin_um == (0, 0, 3)
    backwards = image(tmp_path / "b.zarr", [(noise(), [scale(2, -1, 1)])], "zyx")
    refused(RequestError, r"coordinates along y descend in .*b\.zarr/0", backwards, spacing_um)


def test_dimensions_without_names(tmp_path):
    for shape in ((5, 6, 7), (1, 5, 6, 7), (1, 1, 5, 6, 7)):
        path = stored(tmp_path / str(len(shape)), noise(shape))
        reader = open_omezarr(path, UM)
        assert (reader.grid.shape, reader.axes) == ((5, 6, 7), "zyx")
        np.testing.assert_array_equal(whole(reader), noise(shape).reshape(5, 6, 7))
    refused(RequestError, r"no voxel size along z, y, x in .*/3; give it as", tmp_path / "3", None)
    path = stored(tmp_path / "two", noise((2, 5, 6, 7)))
    refused(RequestError, r"/two has axes \?=2, z=5, y=6, x=7; there must be z, y and x", path)
    path = stored(tmp_path / "line", noise((5,)))
    refused(RequestError, r"/line has axes x=5; there must be z, y and x \(or y and x\)", path)


def test_partly_named_dimensions(tmp_path):
    path = stored(tmp_path / "a", noise((1, 5, 6, 7)), dimension_names=[None, "Z", "Y", "X"])
    assert open_omezarr(path, UM).grid.shape == (5, 6, 7)
    path = stored(tmp_path / "b", noise((5, 6, 7)), dimension_names=["a", "y", "x"])
    refused(RequestError, r"/b has axes a=5, y=6, x=7", path)


def test_groups(tmp_path):
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    refused(
        RequestError, r"a\.zarr is a group without .* what it holds: nothing", tmp_path / "a.zarr"
    )
    root.create_group("sub")
    stored(tmp_path / "a.zarr" / "line", noise((5,)))
    stored(tmp_path / "a.zarr" / "volume", noise())
    np.testing.assert_array_equal(whole(open_omezarr(tmp_path / "a.zarr", UM)), noise())
    refused(
        RequestError, r"is no multiscale image, so it has no level 1", f"{tmp_path}/a.zarr#level=1"
    )
    for i in range(9):
        stored(tmp_path / "a.zarr" / f"more{i}", noise((2, 3, 4)))
    refused(
        RequestError,
        r"a\.zarr is a group .*; name one of what it holds: line\(5,\), more0\(2, 3, 4\), .*, "
        r"4 more$",
        tmp_path / "a.zarr",
    )


# --- as a reader -----------------------------------------------------------------------------


def test_pickle_threads_processes_and_dataarray(encoded):
    array = noise()
    reader = pickle.loads(pickle.dumps(open_omezarr(encoded / "v3 sharded", UM)))
    outs = [np.zeros_like(array) for _ in range(4)]
    threads = [threading.Thread(target=reader.read_into, args=(out, (0, 0, 0))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, array)
    lazy = as_dataarray(reader, chunk=(4, 16, 16))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), array)
    assert lazy.z.values[1] == 2.0
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(whole, reader).result(), array)


def test_relative_paths_hold_elsewhere(encoded, tmp_path, monkeypatch):
    monkeypatch.chdir(encoded)
    reader = open_omezarr("v3", UM)
    assert reader.provenance["location"] == "v3"
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(whole(reader), noise())


def test_provenance(encoded, tmp_path):
    first = open_omezarr(encoded / "v3", UM).provenance
    assert first == open_omezarr(encoded / "v3", (1.0, 1.0, 1.0)).provenance
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "zarr",
        "location": str(encoded / "v3"),
        "array": "",
        "zarr_format": 3,
        "shape": list(SHAPE),
        "dtype": "uint16",
    }
    shutil.copytree(encoded / "v3", tmp_path / "v3")
    moved = open_omezarr(tmp_path / "v3", UM).provenance
    assert moved["fingerprint"] == first["fingerprint"]
    zarr.open_array(str(tmp_path / "v3"), mode="r+").attrs["run"] = 2
    assert open_omezarr(tmp_path / "v3", UM).provenance["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize("name", ["v2", "v3", "sharded"])
def test_chunks_written_anew_are_another_source(tmp_path, name):
    options = {"v2": {"zarr_format": 2}, "v3": {}, "sharded": {"shards": (4, 16, 20)}}[name]
    array = zarr.create_array(
        str(tmp_path / "a"), shape=SHAPE, dtype="u2", chunks=(4, 16, 20), **options
    )
    array[...] = noise()
    first = open_omezarr(tmp_path / "a", UM).provenance
    assert open_omezarr(tmp_path / "a", UM).provenance == first
    other = noise()
    other[3, 20, 30] ^= 1  # the same metadata, and a chunk of the same size
    array[...] = other
    second = open_omezarr(tmp_path / "a", UM).provenance
    assert second["fingerprint"] != first["fingerprint"]
    store = tmp_path / "v.ome.zarr"
    convert(f"{tmp_path}/a", store, spacing="1um")
    array[...] = noise()
    with pytest.raises(RequestError, match="the source's fingerprint was"):
        convert(f"{tmp_path}/a", store, spacing="1um", resume=True)


def test_objects_written_anew_are_another_source():
    url = "memory://bucket/a.zarr"
    array = zarr.create_array(url, shape=SHAPE, dtype="u2", chunks=(4, 16, 20))
    array[...] = noise()
    first = open_omezarr(url, UM).provenance
    assert open_omezarr(url, UM).provenance == first
    array[0, 0, 0] = 7
    assert open_omezarr(url, UM).provenance != first


def test_large_arrays_are_listed_in_bounded_time(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "MOST_FILES", 3)
    path = stored(tmp_path / "a", noise())
    found = nodes.contents(str(path), None)
    assert [len(row) for row in sorted(found, key=len)] == [1] * (len(found) - 3) + [3] * 3
    monkeypatch.setattr(nodes, "MOST_OBJECTS", 3)
    array = zarr.create_array("memory://b/a.zarr", shape=SHAPE, dtype="u2", chunks=(4, 16, 20))
    assert nodes.contents("memory://b/a.zarr", array) == []


def test_labels_added_to_a_store_do_not_make_its_image_another(own, tmp_path):
    store = shutil.copytree(own, tmp_path / "v.ome.zarr")
    image, roi = (open_omezarr(f"{store}{inside}").provenance for inside in ("", "/labels/roi"))
    labels("phantom:32,64,96?channel=roi", store, into="roi", planes=[20])
    assert open_omezarr(store).provenance == image
    assert open_omezarr(f"{store}/labels/roi").provenance != roi


def test_wrong_buffers_are_refused(encoded):
    reader = open_omezarr(encoded / "v3", UM)
    for out, start in (
        (np.zeros((1, 1, 1), "u1"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u2"), (7, 0, 0)),
        (np.zeros((1, 34, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u2"), (0, -1, 0)),
        (np.zeros((4, 5), "u2"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="zarr: cannot give"):
            reader.read_into(out, start)
    reader.read_into(np.zeros((0, 4, 5), "u2"), (7, 0, 0))


# --- addresses -------------------------------------------------------------------------------


def test_memory(encoded):
    files = fsspec.filesystem("memory")
    files.put(str(encoded / "v2 blosc"), "/bucket/a.zarr", recursive=True)
    reader = open_omezarr("memory://bucket/a.zarr", UM)
    np.testing.assert_array_equal(whole(reader), noise())
    files.rm("/bucket", recursive=True)
    with pytest.raises(DataError, match=r"memory://bucket/a\.zarr was there at opening, now: "):
        whole(reader)


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and parts of files without a word; what is secret is not for us."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if self.path.startswith("/secret"):
            self.send_error(500)
        elif asked is None or not path.is_file():
            super().do_GET()
        else:
            data = path.read_bytes()
            first, last = asked.removeprefix("bytes=").split("-")
            start = int(first) if first else len(data) - int(last)
            stop = int(last) + 1 if first and last else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data[start:stop])))
            self.end_headers()
            self.wfile.write(data[start:stop])


@pytest.fixture
def web(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_web(web, own, tmp_path):
    shutil.copytree(own, tmp_path / "v.ome.zarr")
    path = image(tmp_path / "a.zarr", [(noise(), [scale(*UM)])], "zyx", "0.4")
    for name in ("a.zarr", "a.zarr/0"):
        reader = open_omezarr(f"{web}/{name}")
        assert reader.grid == open_omezarr(path).grid
        np.testing.assert_array_equal(whole(reader), noise())
    reader = open_omezarr(f"{web}/v.ome.zarr/labels/roi#level=1")
    np.testing.assert_array_equal(whole(reader), whole(open_omezarr(f"{own}/labels/roi/1")))
    refused(
        MissingError, rf"there is no zarr array or group at {web}/gone\.zarr", f"{web}/gone.zarr"
    )
    (tmp_path / "begun.zarr/thc").mkdir(parents=True)
    (tmp_path / "begun.zarr/thc/plan.json").write_text("{}")
    refused(UnfinishedError, rf"zarr: {web}/begun\.zarr is not finished", f"{web}/begun.zarr")
    refused(
        ReadError, r"cannot read .*/secret\.zarr: 500 .*\(tried \d+ times\); see that .* reached$",
        f"{web}/secret.zarr",
    )  # fmt: skip


def test_addresses_that_cannot_be_reached(monkeypatch):
    impatient(monkeypatch)
    refused(ReadError, r"cannot read http://127\.0\.0\.1:9/a\.zarr: .*127.0.0.1:9 can be reached$",
            "http://127.0.0.1:9/a.zarr")  # fmt: skip
    refused(RequestError, r"zarr: nowhere://host/a\.zarr: this kind of address cannot be opened",
            "nowhere://host/a.zarr")  # fmt: skip


# --- bad input ---------------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    refused(MissingError, r"no zarr array or group at .*gone\.zarr; check", tmp_path / "gone.zarr")
    refused(MissingError, r"no zarr array or group at .*; check the path", tmp_path)
    (tmp_path / "a.zarr").write_bytes(b"x")
    refused(RequestError, r"a\.zarr is a file; name the folder", tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("zarr.json", "{ba"),
        ("zarr.json", '{"zarr_format": 3, "node_type": "array"}'),
        (".zarray", '{"zarr_format": 2}'),
    ],
)
def test_damaged_metadata(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    refused(DataError, r"zarr: .* cannot be opened: \w", tmp_path)


def test_unknown_codecs(tmp_path):
    stored(tmp_path / "v2", noise(), zarr_format=2)
    described = json.loads((tmp_path / "v2/.zarray").read_text())
    described["compressor"] = {"id": "nonesuch"}
    (tmp_path / "v2/.zarray").write_text(json.dumps(described))
    refused(DataError, r"/v2 cannot be opened: .*nonesuch", tmp_path / "v2")
    stored(tmp_path / "v3", noise())
    described = json.loads((tmp_path / "v3/zarr.json").read_text())
    described["codecs"][-1]["name"] = "nonesuch"
    (tmp_path / "v3/zarr.json").write_text(json.dumps(described))
    refused(DataError, r"/v3 cannot be opened: .*nonesuch", tmp_path / "v3")


@pytest.mark.parametrize("dtype", ["complex64", "S3", "M8[s]"])
def test_other_values(tmp_path, dtype):
    zarr.create_array(str(tmp_path / "a"), shape=(2, 3, 4), dtype=dtype, zarr_format=2)
    refused(RequestError, r"/a holds .*; allowed: integers and floats", tmp_path / "a")


def test_damaged_chunks(tmp_path):
    for name in ("v3", "v3 sharded", "v2 blosc"):
        stored(tmp_path / name, noise(), **KINDS[name])
        reader = open_omezarr(tmp_path / name, UM)
        chunks = [p for p in (tmp_path / name).rglob("*") if p.is_file() and "z" not in p.name]
        for path in chunks:
            data = bytearray(path.read_bytes())
            data[:200] = bytes(200)
            path.write_bytes(data)
        with pytest.raises(DataError, match=rf"/{name} cannot be read at 0:7,0:33,0:41: \w"):
            whole(reader)


def test_a_store_that_goes_or_changes(tmp_path):
    path = stored(tmp_path / "a", noise())
    reader = open_omezarr(path, UM)
    zarr.open_array(str(path), mode="r+").resize((6, 33, 41))
    with pytest.raises(DataError, match=r"/a has changed since it was opened; open it again"):
        whole(reader)
    shutil.rmtree(path)
    with pytest.raises(DataError, match=r"/a was there at opening, now: zarr: there is no zarr"):
        whole(reader)


def test_a_disk_that_goes_while_it_is_read(tmp_path, monkeypatch):
    """Zarr takes chunks that are gone for chunks that were never written."""
    path = stored(tmp_path / "a", noise())
    reader = open_omezarr(path, UM)
    ours = ZarrArray._read

    def losing(self, array, index):
        shutil.rmtree(path)
        return ours(self, array, index)

    monkeypatch.setattr(ZarrArray, "_read", losing)
    with pytest.raises(DataError, match=r"/a was there at opening, now: "):
        whole(reader)


# --- labels as label sets --------------------------------------------------------------------


SAID = {
    "colors": [
        {"label-value": 0, "rgba": [0, 0, 0, 0]},
        {"label-value": 3, "rgba": [9, 8, 7, 255]},
    ],
    "properties": [{"label-value": 3, "class": "thalamus"}, {"label-value": 5, "name": "cortex"}],
}


def labelled(folder, codes, *steps, version="0.5", said=SAID):
    """Write a label image of one level as other programs do; return its path."""
    path = f"{folder}/other.zarr/labels/parts"
    image(path, [(codes, [*steps])], "zyx", version)
    group = zarr.open_group(path, mode="r+")
    if version == "0.4":
        group.attrs["image-label"] = {"version": "0.4", **said}
    else:
        group.attrs["ome"] = {**group.attrs["ome"], "image-label": said}
    return path


@pytest.fixture
def target(tmp_path):
    """A store of (20, 30, 40) voxels whose first lies at 10, 20, 30 um."""
    path = image(tmp_path / "volume.zarr", [(noise((20, 30, 40), "uint8"),
                 [scale(*UM), translation(10, 20, 30)])], "zyx")  # fmt: skip
    convert(path, tmp_path / "v", levels=1)
    return tmp_path / "v"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_bring_their_place_names_and_colours(tmp_path, target, version):
    codes = np.random.default_rng(2).choice([0, 3, 5], (6, 7, 8)).astype(np.uint8)
    begin = (10 + 4 * UM[0], 20 + 2 * UM[1], 30 + 5 * UM[2])
    path = labelled(tmp_path, codes, scale(*UM), translation(*begin), version=version)
    labels(path, target, "parts")
    kept = Store(target).label_set("parts")
    assert kept.extents == [Extent((4, 2, 5), (10, 9, 13))]
    assert [(x.code, x.name) for x in kept.scheme.labels] == [
        (0, "none"), (3, "thalamus"), (5, "cortex"),
    ]  # fmt: skip
    assert kept.scheme["thalamus"].color == "#090807"
    np.testing.assert_array_equal(
        read_voxels(target, "labels/parts/0/parts")[4:10, 2:9, 5:13], codes
    )
    assert verify(target)["whole"]


def test_labels_between_voxels_are_rounded_with_a_warning(tmp_path, target):
    begin = (10 + 4.3 * UM[0], 20, 30)
    path = labelled(tmp_path, np.ones((6, 7, 8), np.uint8), scale(*UM), translation(*begin))
    with pytest.warns(UserWarning, match=r"begin at voxel 4\.3,0,0 .*; rounded to 4,0,0"):
        labels(path, target, "parts", "prasad2020-roi")
    assert Store(target).label_set("parts").extents == [Extent((4, 0, 0), (10, 7, 8))]


def test_labels_of_another_voxel_size_are_refused_or_warned_of(tmp_path, target):
    double = [2 * um for um in UM]
    path = labelled(tmp_path, np.full((10, 15, 20), 3, np.uint8), scale(*double))
    with pytest.raises(RequestError, match=r"their voxels are .* um, .*; name a level that fits"):
        labels(path, target, "parts")
    path = labelled(tmp_path / "whole", np.full((20, 30, 40), 3, np.uint8), scale(*double))
    with pytest.warns(UserWarning, match="taken for the volume's, whose shape they have"):
        labels(path, target, "parts")
    path = labelled(tmp_path / "moved", np.full((20, 30, 40), 3, np.uint8), scale(*UM))
    with pytest.warns(UserWarning, match="their own place is .* from the volume's; laid upon it"):
        labels(path, target, "moved")


def test_label_sets_of_a_store_keep_what_is_known(own, tmp_path):
    convert("phantom:32,64,96", tmp_path / "v", spacing="1170nm", levels=3)
    labels(f"{own}/labels/roi", tmp_path / "v", "roi")
    before, after = Store(own).label_set("roi"), Store(tmp_path / "v").label_set("roi")
    assert after.extents == before.extents
    assert after.scheme == before.scheme
    np.testing.assert_array_equal(whole_of(after.array()), whole_of(before.array()))


@pytest.mark.parametrize(
    ("said", "says"),
    [({}, "say what the codes mean"), ({"colors": []}, "say what the codes mean"),
     ({"colors": [{"rgba": [1, 2, 3, 4]}]}, "cannot be understood"),
     ({"properties": [{"label-value": 1.5, "name": "x"}]}, "1.5 is not a whole number"),
     ({"properties": [{"label-value": 70000, "name": "x"}]}, "cannot be understood .*65535")],
)  # fmt: skip
def test_labels_that_say_nothing_of_use(tmp_path, target, said, says):
    path = labelled(tmp_path, np.ones((20, 30, 40), np.uint8), scale(*UM), said=said)
    with pytest.raises((RequestError, DataError), match=says):
        labels(path, target, "parts")
