import json
import tracemalloc
from fractions import Fraction

import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import mean_pyramid, new_store, read_files, read_voxels
from tests.strategies import Watched, source, volumes
from thc_dask import convert, labels, open_source, open_volume, verify
from thc_dask.convert import write_store
from thc_dask.errors import DataError, ExistsError, RequestError, UnfinishedError
from thc_dask.grid import Box, Grid

RNG = np.random.default_rng(7)
SMALL = {"spacing": "1um", "chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 3}


def noise(*shape, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def assert_lies_where_the_formula_says(opened, volume):
    """Level k: scale p * 2**k, translation t + p * (2**k - 1) / 2, shape ceil(n / 2**k)."""
    [multiscale] = opened.attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert {(axis["type"], axis["unit"]) for axis in multiscale["axes"]} == {
        ("space", "micrometer")
    }
    assert [d["path"] for d in multiscale["datasets"]] == [
        f"{k}/image" for k in range(volume.n_levels)
    ]
    for k, dataset in enumerate(multiscale["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        for i, axis in enumerate("zyx"):
            p, t = Fraction(volume.spacing_um[i]), Fraction(volume.origin_um[i])
            step, first = p * 2**k, t + p * (2**k - 1) / 2
            assert scale["scale"][i] == pytest.approx(float(step), abs=1e-9)
            assert translation["translation"][i] == pytest.approx(float(first), abs=1e-9)
            centres = opened[f"{k}/{axis}"]
            assert centres.attrs["units"] == "micrometer"
            assert centres.sizes == {axis: -(-volume.array.shape[i] // 2**k)}
            expected = [float(first + step * j) for j in range(centres.size)]
            np.testing.assert_allclose(centres.values, expected, rtol=0, atol=1e-9)


@settings(max_examples=40)
@given(volumes())
def test_every_level_equals_the_naive_pyramid(volume):
    opened = convert(volume.source, new_store(), **volume.options)
    for k, expected in enumerate(mean_pyramid(volume.array, volume.n_levels)):
        np.testing.assert_array_equal(opened[f"{k}/image"].values, expected, strict=True)
    assert str(volume.n_levels) not in opened.children
    assert_lies_where_the_formula_says(opened, volume)


@pytest.mark.parametrize(
    ("shape", "dtype", "chunk", "n_levels"),
    [
        ((1, 700, 1100), np.uint8, (1, 512, 512), 4),
        ((66, 300, 270), np.uint8, (64, 64, 64), 2),
        ((130, 65, 600), np.uint16, (64, 64, 64), 3),
    ],
)
def test_default_chunks_hold_larger_volumes(shape, dtype, chunk, n_levels):
    array, store = noise(*shape, dtype=dtype), new_store()
    plan = write_store(source(array), store, spacing="1um")
    assert (plan.chunk, plan.n_levels) == (chunk, n_levels)
    for k, expected in enumerate(mean_pyramid(array, n_levels)):
        np.testing.assert_array_equal(read_voxels(store, f"{k}/image"), expected, strict=True)


@pytest.mark.filterwarnings("ignore:memory")
@settings(max_examples=15)
@given(volumes(), st.integers(1, 100_000))
def test_memory_changes_the_blocks_and_not_the_bytes(volume, memory_bytes):
    much, little = new_store(), new_store()
    # A source with units makes the blocks as wide as memory allows.
    array = volume.source.chunk(dict(zip("zyx", (8, 40, 50), strict=True)))
    convert(array, much, **volume.options)
    convert(array, little, **volume.options, memory_bytes=memory_bytes)
    assert read_files(much) == read_files(little)


def test_a_plan_is_what_happens(tmp_path):
    array, store = noise(40, 30, 20), tmp_path / "v.ome.zarr"
    planned = write_store(source(array), store, **SMALL, dry_run=True)
    assert not store.exists()
    seen = []
    followed = write_store(
        source(array), store, **SMALL, progress=lambda done, total: seen.append((done, total))
    )
    assert followed == planned
    shards = [key for key in read_files(store) if "/image/c/" in key]
    assert planned.n_shards == len(shards) == 12 + 12 + 1
    assert planned.read_bytes == array.size
    assert planned.write_bytes == 40 * 30 * 20 + 20 * 15 * 10 + 10 * 8 * 5
    # Levels 0 and 1 are read as one wave, level 2 as the next.
    assert seen[-1] == (array.size + 10 * 8 * 5,) * 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def one_chunk(path, shape, dtype):
    with h5py.File(path / "v.h5", "w") as file:
        voxels = np.random.default_rng(3).integers(0, 60000, shape).astype(dtype)
        file.create_dataset("v", data=voxels, chunks=shape, compression="gzip", shuffle=True)
    return path / "v.h5"


def one_strip(path, shape, dtype):
    voxels = np.random.default_rng(3).integers(0, 60000, shape).astype(dtype)
    tifffile.imwrite(path / "v.tif", voxels[0], compression="zlib", rowsperstrip=shape[1])
    return path / "v.tif"


@pytest.mark.parametrize("window", ["0:60000", "auto"])
@pytest.mark.parametrize(
    ("write", "shape", "dtype"),
    [
        (one_chunk, (64, 256, 512), np.float32),
        (one_chunk, (64, 256, 512), np.int16),
        (one_strip, (1, 3000, 4096), np.uint16),
    ],
)
def test_large_units_of_a_source_are_planned_and_warned_of(tmp_path, write, shape, dtype, window):
    given, store = write(tmp_path, shape, dtype), tmp_path / "v.ome.zarr"
    options = {"spacing": "1um", "window": window, "levels": 1}
    warning = "the source is decoded in units of {} x {} x {} voxels, with which up to".format(
        *shape
    )
    tracemalloc.start()
    with pytest.warns(UserWarning, match=warning):
        plan = write_store(given, store, **options, memory_bytes=2**22)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.buffers.unit == shape
    parts = plan.buffers.slab_bytes + plan.buffers.shard_bytes + plan.buffers.decoding_bytes
    assert parts == plan.memory_bytes
    little = 2**24  # the machine's own, and what is worth reading at a time
    assert plan.memory_bytes / 3 <= peak <= plan.memory_bytes + little
    # With what the warning asks for there is none, and the bytes are the same.
    write_store(given, tmp_path / "w.ome.zarr", **options, memory_bytes=plan.memory_bytes)
    assert read_files(store) == read_files(tmp_path / "w.ome.zarr")


def test_units_of_a_few_megabytes_are_planned_as_before(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("v", data=noise(64, 64, 64), chunks=(32, 64, 64), compression="gzip")
    plan = write_store(tmp_path / "v.h5", tmp_path / "v.zarr", spacing="1um", dry_run=True)
    assert (plan.buffers.decoding_bytes, plan.buffers.unit) == (0, None)
    assert plan.memory_bytes == plan.buffers.slab_bytes + plan.buffers.shard_bytes


@pytest.mark.parametrize("where", [(0, 0, 0), (20, 3, 17), (39, 29, 19)])
@pytest.mark.parametrize("fresh", [True, False])
def test_what_broke_off_never_opens(tmp_path, where, fresh):
    array, store = noise(40, 30, 20), tmp_path / "v.ome.zarr"
    if not fresh:
        convert(source(array // 2), store, **SMALL)
    with pytest.raises(DataError, match="the source is damaged"):
        convert(Watched(source(array), where), store, **SMALL, overwrite=not fresh)
    with pytest.raises(UnfinishedError, match=f"{store} is not finished"):
        open_volume(store)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(str(store), mode="r")
    with pytest.raises(FileNotFoundError):
        xr.open_datatree(str(store), engine="zarr")
    assert not [key for key in read_files(store) if key.endswith(".partial")]
    with pytest.raises(ExistsError, match="unfinished"):
        convert(source(array), store, **SMALL)
    opened = convert(source(array), store, **SMALL, overwrite=True)
    np.testing.assert_array_equal(opened["0/image"], array)


def test_overwriting_leaves_nothing_of_what_was(tmp_path):
    once, twice = tmp_path / "once.ome.zarr", tmp_path / "twice.ome.zarr"
    array = noise(20, 20, 20)
    convert(source(noise(70, 50, 30, dtype=np.uint16)), twice, spacing="3um", chunk=(8, 8, 8))
    with pytest.raises(ExistsError, match=r"twice\.ome\.zarr exists"):
        convert(source(array), twice, **SMALL)
    convert(source(array), twice, **SMALL, overwrite=True)
    convert(source(array), once, **SMALL)
    assert read_files(once) == read_files(twice)


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ExistsError, match="is not a store, so --overwrite leaves it alone"):
        convert(source(noise(4, 4, 4)), tmp_path, spacing="1um", overwrite=True)
    assert read_files(tmp_path) == {"letters.txt": b"dear"}


@pytest.mark.parametrize("root", ["{}", '{"zarr_format": 3, "node_type": "group"}', "no JSON"])
def test_a_store_of_another_program_is_left_alone(tmp_path, root):
    (tmp_path / "zarr.json").write_text(root)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/0").write_text("voxels")
    before = read_files(tmp_path)
    with pytest.raises(ExistsError, match="is not a store, so --overwrite leaves it alone"):
        convert(source(noise(4, 4, 4)), tmp_path, spacing="1um", overwrite=True)
    assert read_files(tmp_path) == before


def test_a_part_of_a_store_is_not_overwritten(tmp_path):
    store = tmp_path / "v.ome.zarr"
    convert("phantom:8,32,48", store)
    labels("phantom:8,32,48?channel=roi", store, "roi", "prasad2020-roi")
    before = read_files(store)
    for inside in ("0", "labels/roi", "new.ome.zarr", "labels/roi/0/new.ome.zarr"):
        with pytest.raises(RequestError, match=rf"would lie inside the store {store}"):
            convert(source(noise(4, 4, 4)), store / inside, spacing="1um", overwrite=True)
    with pytest.raises(RequestError, match=rf"would lie inside the store {store}"):
        convert(store, store / "0", overwrite=True)
    url = new_store()
    convert("phantom:8,32,48", url)
    with pytest.raises(ExistsError, match="is not a store, so --overwrite leaves it alone"):
        convert(source(noise(4, 4, 4)), f"{url}/0", spacing="1um", overwrite=True)
    assert read_files(store) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spacing": "1"}, "has no unit"),
        ({"spacing": (1, 2)}, "give one length, or three"),
        ({"spacing": -1.0}, "must be above 0"),
        ({"chunk": 8.5}, "give a whole number of voxels, or three"),
        ({"chunk": (8, 8)}, "give a whole number of voxels, or three"),
        ({"chunk": 3}, "such as a chunk of 4 and a shard of 16"),
        ({"crop": ((0, 0, 0), (1, 1, 1))}, r"give Box\("),
        ({"window": "p0:p101"}, "percentiles go from 0 to 100"),
    ],
)
def test_options_of_another_type_are_refused_by_name(options, said):
    array = source(noise(4, 4, 4, dtype=np.uint16))
    with pytest.raises(RequestError, match=said):
        convert(array, new_store(), **options)
    with pytest.raises(RequestError, match="give where it begins and ends"):
        Box((0, 0), (1, 1))


def test_numbers_do_for_sizes():
    array = source(noise(20, 20, 20))
    stores = new_store(), new_store()
    convert(array, stores[0], spacing="1.5um", chunk=(4, 4, 4), shard=(8, 8, 8))
    convert(array, stores[1], spacing=1.5, chunk=4, shard=8)
    assert read_files(stores[0]) == read_files(stores[1])
    convert(array, stores[1], spacing=(1.5, 1.5, 1.5), chunk=4, shard=8, overwrite=True)
    assert read_files(stores[0]) == read_files(stores[1])


def test_nothing_is_written_into_a_zarr_that_is_read(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", data=noise(4, 4, 4))
    before = read_files(tmp_path)
    with pytest.raises(RequestError, match="would lie inside its source"):
        convert(tmp_path / "a.zarr", tmp_path / "a.zarr/v.ome.zarr", spacing="1um")
    assert read_files(tmp_path) == before
    assert array.shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("made_from", "store"),
    [
        ("{}/v.ome.zarr", "file://{}/v.ome.zarr"),
        ("file://{}/v.ome.zarr", "{}/v.ome.zarr/"),
        ("{}/v.ome.zarr#level=1", "{}/v.ome.zarr"),
        ("{}/v.ome.zarr/0/image", "{}/a/../v.ome.zarr"),
        ("{}/link", "{}/v.ome.zarr"),
        ("{}/mosaic.json", "{}/v.ome.zarr"),
        ("{}/run:1/v.ome.zarr", "{}/run:1/v.ome.zarr"),
        ("memory://nest/v.ome.zarr", "memory://nest/v.ome.zarr/"),
    ],
)
def test_a_store_does_not_replace_its_own_source(tmp_path, made_from, store):
    """However the two are written; also where it is a level, or a tile of a mosaic."""
    for name in ("v.ome.zarr", "run:1/v.ome.zarr", "a/other.ome.zarr"):
        convert(source(noise(20, 20, 20)), tmp_path / name, **SMALL)
    convert(source(noise(20, 20, 20)), "memory://nest/v.ome.zarr", **SMALL)
    (tmp_path / "link").symlink_to("v.ome.zarr")
    tiles = [{"path": "v.ome.zarr", "offset": [0, 0, 0]}]
    (tmp_path / "mosaic.json").write_text(json.dumps({"tiles": tiles}))
    before = read_files(tmp_path), read_files("memory://nest/v.ome.zarr")
    with pytest.raises(RequestError, match="would replace its own source"):
        convert(made_from.format(tmp_path), store.format(tmp_path), overwrite=True, **SMALL)
    assert (read_files(tmp_path), read_files("memory://nest/v.ome.zarr")) == before


@pytest.mark.parametrize("opened", [open_source, lambda path: open_volume(path)["0/image"]])
@pytest.mark.parametrize("made", [lambda array: array, lambda array: array // 2])
def test_a_store_does_not_replace_what_an_array_is_computed_from(tmp_path, opened, made):
    path = str(tmp_path / "v.ome.zarr")
    convert(source(noise(20, 20, 20)), path, **SMALL)
    before, array = read_files(path), made(opened(path))
    with pytest.raises(RequestError, match="would replace its own source"):
        convert(array, path, overwrite=True, **SMALL)
    assert read_files(path) == before
    convert(array, tmp_path / "other.ome.zarr", **SMALL)
    np.testing.assert_array_equal(read_voxels(tmp_path / "other.ome.zarr", "0/image"), array)


def test_what_somebody_put_into_a_store_stays(tmp_path):
    store, array = tmp_path / "v.ome.zarr", noise(20, 20, 20)
    convert(source(noise(70, 50, 30)), store, **SMALL)
    (store / "letters").mkdir()
    (store / "letters/to.txt").write_text("dear")
    convert(source(array), store, **SMALL, overwrite=True)
    assert (store / "letters/to.txt").read_text() == "dear"
    assert verify(store)["unknown"] == ["letters/to.txt"]


@pytest.mark.parametrize("dtype", [bool, np.complex64])
def test_other_types_are_refused_by_name(dtype):
    with pytest.raises(RequestError, match=f"voxels are {np.dtype(dtype).name}; give whole or"):
        convert(source(np.zeros((2, 2, 2), dtype)), new_store())


def test_spacing_asked_for_beats_that_of_the_source():
    store = new_store()
    array = source(noise(4, 5, 6), (9.0, 9.0, 9.0), (1.0, 2.0, 3.0))
    opened = convert(array, store, spacing="2um,1170nm,0.001mm")
    record = json.loads(read_files(store)["zarr.json"])["attributes"]["thc"]["layout"]
    assert record["spacing_um"] == [2, 1.17, 1]
    np.testing.assert_array_equal(
        opened["0/y"], Grid((4, 5, 6), (2, 1.17, 1), (1, 2, 3)).coordinates(1)
    )
    assert convert(array, new_store())["0/z"].values.tolist() == [1, 10, 19, 28]
