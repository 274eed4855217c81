"""Any damage to any file is found, named and mended to the very bytes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from thc_dask import convert, count, labels, open_volume, verify
from thc_dask.errors import DataError, RequestError
from thc_dask.sources import open_source
from thc_dask.store.location import LOCK

SHAPE = "70,90,150?seed=2"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with everything in it: image, two label sets, tables."""
    store = tmp_path_factory.mktemp("verify") / "volume.ome.zarr"
    volume = convert(f"phantom:{SHAPE}", store, levels=4, chunk=(16, 16, 16), shard=(64, 64, 64))
    roi = f"phantom:{SHAPE}&channel=roi"
    volume = labels(roi, volume, "roi", "prasad2020-roi", planes=[10, 40])
    volume = labels(roi, volume, into="roi", planes=[60])
    structures = f"phantom:{SHAPE}&channel=microstructure"
    count(labels(structures, volume, "microstructure", "prasad2020-microstructure"))
    return store


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "volume.ome.zarr"))


def files_of(store):
    every = (os.path.relpath(Path(d, f), store) for d, _, fs in os.walk(store) for f in fs)
    return sorted(key for key in every if key != LOCK)


def damage(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "missing" or not data:
        path.unlink()
        return
    at = int(rng.integers(len(data)))
    if how == "truncated":
        data = data[:at]
    else:
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def test_a_whole_store_is_whole(store):
    found = verify(store)
    assert found["whole"]
    assert found["problems"] == found["unknown"] == found["mended"] == []
    # All but the root, its copy, the lock, and the lists of receipts themselves.
    lists = [key for key in files_of(store) if key.endswith(".jsonl")]
    assert found["n_files"] == len(files_of(store)) - 2 - len(lists)


@pytest.mark.parametrize("seed", range(24))
def test_any_damage_is_found_named_and_mended(store, seed):
    rng = np.random.default_rng(seed)
    key = str(rng.choice(files_of(store)))
    before = {k: (store / k).read_bytes() for k in files_of(store)}
    damage(store / key, str(rng.choice(["missing", "truncated", "flipped"])), rng)
    found = verify(store)
    assert not found["whole"]
    assert [problem["key"] for problem in found["problems"]] == [key]
    mended = verify(store, repair=True)
    assert mended["whole"]
    assert mended["mended"] == [key]
    assert {k: (store / k).read_bytes() for k in files_of(store)} == before


@pytest.mark.parametrize("level", range(4))
def test_several_shards_at_once(store, level):
    before = {k: (store / k).read_bytes() for k in files_of(store)}
    rng = np.random.default_rng(level)
    keys = [k for k in before if k.startswith((f"{level}/image/c/", f"labels/roi/{level}/roi/c/"))]
    for key in keys:
        damage(store / key, "flipped", rng)
    assert {p["key"] for p in verify(store)["problems"]} == set(keys)
    assert verify(store, repair=True)["whole"]
    assert {k: (store / k).read_bytes() for k in files_of(store)} == before


def test_coarse_levels_need_no_source(tmp_path):
    array = open_source("phantom:40,50,60")
    store = tmp_path / "v.ome.zarr"
    convert(array.assign_attrs(provenance=None), store, levels=3, chunk=(8, 8, 8))
    broken = store / "1/image/c/0/0/0"
    data = broken.read_bytes()
    broken.write_bytes(data[:-1])
    assert verify(store, repair=True)["mended"] == ["1/image/c/0/0/0"]
    assert broken.read_bytes() == data


def test_the_finest_level_needs_its_source(tmp_path):
    array = open_source("phantom:40,50,60").assign_attrs(provenance=None)
    store = tmp_path / "v.ome.zarr"
    convert(array, store, levels=3, chunk=(8, 8, 8))
    broken = store / "0/image/c/0/0/0"
    data = broken.read_bytes()
    broken.unlink()
    with pytest.raises(RequestError, match="was 'array' in memory"):
        verify(store, repair=True)
    with pytest.raises(RequestError, match=r"its .* was"):
        verify(store, repair=True, source="phantom:40,50,60?seed=7")
    assert verify(store, repair=True, source=array)["whole"]
    assert broken.read_bytes() == data


def test_a_file_of_somebody_else_is_named_and_left(store):
    (store / "0" / "notes.txt").write_text("mine")
    found = verify(store, repair=True)
    assert found["whole"]
    assert found["unknown"] == ["0/notes.txt"]
    assert (store / "0" / "notes.txt").read_text() == "mine"


def test_both_roots_damaged_is_beyond_repair(store):
    for key in ("zarr.json", "thc/root.json"):
        (store / key).write_bytes((store / key).read_bytes().replace(b"micrometer", b"micromotor"))
    with pytest.raises(DataError, match="both damaged; convert again"):
        verify(store, repair=True)


def test_an_opened_volume_verifies_too(store):
    assert verify(open_volume(store))["whole"]
    with pytest.raises(RequestError, match="is not a volume"):
        verify(3)
