import json
import shutil

import google_crc32c
import numpy as np
import pytest
import xarray as xr
import zstandard

from tests.assertions import joint_counts, new_store, read_files
from tests.strategies import source
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import DataError
from thc_dask.labels import write_labels
from thc_dask.pairs import describe, make_pair
from thc_dask.schemes import Label, Scheme
from thc_dask.store.read import Store
from thc_dask.store.tableread import read_array, read_parts
from thc_dask.store.tables import stored_digests

SHAPE = (20, 12, 16)
RNG = np.random.default_rng(13)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
MANY = Scheme("many", "region", tuple(Label(7 * i, f"area {i}") for i in range(600)))
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(2, "cell")))
ROI = RNG.choice(MANY.codes, SHAPE)
MICRO = RNG.choice(STRUCTURES.codes, SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A counted store on disk with so many regions that a table has several chunks."""
    path = tmp_path_factory.mktemp("tables") / "v.ome.zarr"
    write_store(source(IMAGE, (2.0, 1.0, 1.0)), path, chunk=(8, 8, 8), shard=(16, 16, 16))
    write_labels(source(ROI), path, "roi", MANY)
    write_labels(source(MICRO), path, "micro", STRUCTURES, planes=[3, 7])
    return write_counts(path)


@pytest.mark.parametrize("consolidated", [True, False])
def test_tables_are_read_by_plain_xarray(store, consolidated):
    group = f"{store.url}/counts/roi"
    planes = xr.open_zarr(f"{group}/plane", consolidated=consolidated)
    chunks = xr.open_zarr(f"{group}/chunk", consolidated=consolidated)
    assert planes["counts"].chunks[0] == (5, 5, 5, 5)
    z = np.indices(SHAPE)[0]
    everything = np.ones(SHAPE, bool)
    expected = joint_counts(ROI, IMAGE, MANY.codes, np.arange(256), everything, z)
    np.testing.assert_array_equal(planes["counts"], expected)
    np.testing.assert_array_equal(chunks["counts"].sum("chunk"), expected.sum(axis=0))
    assert planes["z"].values.tolist() == [2.0 * k for k in range(20)]
    assert planes["z"].attrs["units"] == "micrometer"


def test_tables_stand_in_the_tree_with_names_as_cf_flags(store):
    tree = xr.open_datatree(store.url, engine="zarr")
    assert {path for path in tree.groups if path.startswith("/counts/")} == {
        f"/counts/{key}{kind}"
        for key in ("roi", "micro", "micro_by_roi")
        for kind in ("", "/plane", "/chunk")
    }
    both = tree["counts/micro_by_roi/plane"]
    assert both["counts"].dims == ("plane", "region", "structure")
    assert both["plane"].values.tolist() == [3, 7]
    flags = both["region"].attrs
    assert flags["flag_values"] == MANY.codes.tolist() == both["region"].values.tolist()
    assert flags["flag_meanings"].split() == [f"area_{i}" for i in range(600)]
    assert both["structure"].attrs["flag_meanings"] == "background cell"
    assert both.attrs["rows"] == "roi"
    assert both.attrs["columns"] == "micro"


def test_a_table_knows_which_voxels_it_counted(store):
    for rows, columns in (("roi", "image"), ("roi", "micro")):
        table = describe(store, make_pair(store, rows, columns))
        assert stored_digests(store, table) == table.digests
        assert set(table.digests) == {rows, columns}
    assert describe(store, make_pair(store, "roi")).digests["image"] == store.digest
    missing = describe(store, make_pair(store, "micro", "roi"))
    assert stored_digests(store, missing) is None


def test_tables_are_read_chunk_by_chunk(store):
    for path in ("plane/counts", "chunk/counts", "chunk/chunk_y", "plane/z"):
        group, name = f"{store.url}/counts/roi/{path}".rsplit("/", 1)
        expected = xr.open_zarr(group)[name].values
        found = read_array(store, f"counts/roi/{path}")
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    starts = [start for start, _ in read_parts(store, "counts/roi/plane/counts")]
    assert starts == [0, 5, 10, 15]
    places = [read_array(store, f"counts/roi/chunk/chunk_{axis}").tolist() for axis in "zyx"]
    assert list(zip(*places, strict=True)) == list(np.ndindex(3, 2, 2))


def test_a_damaged_table_is_named(store, tmp_path):
    copy = shutil.copytree(store.url, tmp_path / "v.ome.zarr")
    for data in (b"", b"no zstd", zstandard.compress(b"too short")):
        (copy / "counts/roi/plane/counts/c/1/0/0").write_bytes(data)
        with pytest.raises(DataError, match=r"counts/c/1/0/0 is damaged; run thc verify --repair"):
            read_array(Store(copy), "counts/roi/plane/counts")


def test_receipts_of_tables_match_their_files(store):
    files = read_files(store.url)
    for key in ("roi", "micro", "micro_by_roi"):
        lines = files[f"thc/receipts/counts/{key}.jsonl"].decode().splitlines()
        said = {line.pop("key"): line for line in map(json.loads, lines)}
        top = f"counts/{key}/"
        assert said == {
            name: {"n_bytes": len(data), "crc32c": google_crc32c.value(data)}
            for name, data in files.items()
            if name.startswith(top) and not name.endswith("zarr.json")
        }


def test_a_table_that_shrinks_leaves_nothing_behind():
    url, once = new_store(), new_store()
    for made in (url, once):
        write_store(source(IMAGE), made, chunk=(8, 8, 8), shard=(16, 16, 16))
    write_labels(source(ROI), url, "roi", MANY)
    write_counts(url)
    for made in (url, once):
        write_labels(source(MICRO), made, "roi", STRUCTURES, planes=[5], overwrite=True)
        write_counts(made)
    assert read_files(url) == read_files(once)
    assert Store(url).nodes == Store(once).nodes
