"""What a store says of itself."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import thc_dask as thc
from thc_dask.errors import MissingError, RequestError

SHAPE = (20, 33, 50)
RNG = np.random.default_rng(8)


def array(high):
    return xr.DataArray(RNG.integers(0, high, SHAPE, np.uint8), dims=("z", "y", "x"), name="made")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("info") / "volume.ome.zarr"
    layout = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 2}
    thc.convert(array(256), path, spacing="2um,1.5um,0.5um", **layout)
    extents = [thc.Extent((0, 0, 0), (2, 3, 4)), thc.Extent((7, 0, 0), (8, 33, 50))]
    thc.labels(array(9), path, "roi", "prasad2020-roi", extents=extents)
    thc.labels(array(4), path, "cells", "prasad2020-microstructure", planes=[7, 3])
    thc.count(path, "roi")
    return path


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store, tmp_path / "copy.ome.zarr")


def test_geometry(store):
    facts = thc.info(store)
    assert facts["shape"] == list(SHAPE)
    assert facts["n_vox"] == 20 * 33 * 50
    assert facts["spacing_um"] == [2.0, 1.5, 0.5]
    assert facts["size_um"] == [40.0, 49.5, 25.0]
    assert facts["origin_um"] == [0.0, 0.0, 0.0]
    assert facts["dtype"] == "uint8"
    fine, coarse = facts["levels"]
    assert (fine["shape"], fine["n_shards"]) == ([20, 33, 50], 2 * 3 * 4)
    assert (coarse["shape"], coarse["spacing_um"]) == ([10, 17, 25], [4.0, 3.0, 1.0])


def test_label_sets(store):
    labels = thc.info(store)["labels"]
    assert list(labels) == ["cells", "roi"]
    assert labels["roi"]["extents"] == ["0:2,0:3,0:4", "7:8,0:33,0:50"]
    assert labels["roi"]["n_known_vox"] == 2 * 3 * 4 + 33 * 50
    assert labels["roi"]["n_planes"] == 3
    assert (labels["roi"]["kind"], labels["cells"]["kind"]) == ("region", "structure")
    assert labels["roi"]["names"]["8"] == "CC"
    assert labels["cells"]["scheme"] == "prasad2020-microstructure"
    assert labels["cells"]["n_planes"] == 2


def test_it_is_ready_for_json(store):
    facts = thc.info(store)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_files_are_those_on_the_disk(store):
    files = thc.info(store)["files"]
    sizes = [p.stat().st_size for p in store.rglob("*") if p.is_file()]
    assert sum(part["n_files"] for part in files.values()) == len(sizes)
    assert sum(part["n_bytes"] for part in files.values()) == sum(sizes)
    assert {"0", "1", "counts", "labels", "zarr.json"} <= set(files)


def test_where_it_comes_from(store):
    facts = thc.info(store)
    assert facts["provenance"]["name"] == "made"
    assert facts["normalisation"] is None
    assert facts["software"] == f"thc_dask {thc.__version__}"
    assert facts["labels"]["roi"]["provenance"][0]["name"] == "made"


def test_tables_grow_stale(copy):
    assert thc.info(copy)["tables"] == {"roi": "up to date"}
    thc.labels(array(9), copy, "roi", "prasad2020-roi", overwrite=True)
    assert thc.info(copy)["tables"] == {"roi": "stale: thc count makes it anew"}
    thc.count(copy)
    fresh = dict.fromkeys(("cells", "cells_by_roi", "roi"), "up to date")
    assert thc.info(copy)["tables"] == fresh


def test_equal_voxels_have_equal_digests(tmp_path):
    voxels, digests = array(256), set()
    for name, chunk in (("a", (8, 8, 8)), ("b", (8, 8, 8))):
        thc.convert(voxels, tmp_path / name, spacing="1um", chunk=chunk, shard=(16, 16, 16))
        digests.add(thc.info(tmp_path / name)["digest"])
    thc.convert(voxels + 1, tmp_path / "c", spacing="1um", chunk=(8, 8, 8), shard=(16, 16, 16))
    assert len(digests) == 1
    assert thc.info(tmp_path / "c")["digest"] not in digests


def test_an_opened_volume_and_an_address_will_do(store):
    facts = thc.info(thc.open_volume(store))
    assert facts == thc.info(store)
    remote = "memory://info/volume.ome.zarr"
    thc.convert(array(256), remote, spacing="1um")
    assert thc.info(remote)["files"] == {}
    assert thc.info(remote)["store"] == remote


def test_what_is_no_volume(tmp_path):
    with pytest.raises(RequestError, match="int is not a volume: give what open_volume returned"):
        thc.info(3)
    with pytest.raises(MissingError, match="does not exist; make it with: thc convert"):
        thc.info(tmp_path / "nothing")
