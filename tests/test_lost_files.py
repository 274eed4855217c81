"""A file of a finished store that is lost or damaged is never taken for zeros."""

import shutil

import pytest

from thc_dask import convert, histogram, interpolate, labels, open_source, summary
from thc_dask.count import write_counts
from thc_dask.errors import DataError
from thc_dask.grid import Box
from thc_dask.maps import maps

SOURCE = "phantom:48,64,96?seed=3"
SIZES = {"chunk": (16, 16, 16), "shard": (32, 32, 32), "levels": 2}
CUT = Box((1, 1, 1), (44, 60, 90))  # cuts chunks of every shard


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = tmp_path_factory.mktemp("lost") / "v.ome.zarr"
    convert(SOURCE, store, **SIZES)
    labels(f"{SOURCE}&channel=roi", store, "roi", "prasad2020-roi")
    write_counts(store)
    return store


@pytest.fixture
def store(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "v.ome.zarr")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def tables(store):
    return [path for path in files_of(store / "counts/roi") if "/c/" in path.as_posix()]


READ = ("/counts/c/", "/plane/plane/c/", "/chunk_z/", "/chunk_y/", "/chunk_x/")
ASKED = {
    "planes": lambda store: histogram(store),
    "chunks": lambda store: histogram(store, box=CUT).compute(),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
@pytest.mark.parametrize("harm", ["gone", "flipped", "empty"])
def test_a_table_is_read_only_if_every_byte_of_it_is_there(whole, tmp_path, harm, asked):
    right, named = asked(whole), set()
    for i, file in enumerate(tables(whole)):
        store = shutil.copytree(whole, tmp_path / str(i))
        path = store / file.relative_to(whole)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(b"" if harm == "empty" else data)
        key = path.relative_to(store).as_posix()
        what = "missing" if harm == "gone" else "damaged"
        if any(part in key for part in READ):
            named.add(key)
            with pytest.raises(DataError, match=rf"{key} is {what}; run thc verify --repair"):
                asked(store)
        else:
            assert asked(store).identical(right.assign_attrs(store=str(store)))
    assert len(named) >= 6


@pytest.mark.parametrize("what", ["counts/roi", "counts", "thc/receipts/counts"])
def test_a_table_that_is_gone_is_said_to_be(store, what):
    shutil.rmtree(store / what)
    with pytest.raises(DataError, match=r"is missing; run thc verify --repair"):
        histogram(store)


@pytest.mark.parametrize("array", ["0/image", "labels/roi/0/roi"])
def test_a_shard_that_is_gone_is_not_zeros(store, array):
    shard = files_of(store / array / "c")[0]
    shard.unlink()
    key = shard.relative_to(store).as_posix()
    said = rf"{key} is missing; run thc verify --repair"
    with pytest.raises(DataError, match=said):
        histogram(store, box=CUT).compute()
    with pytest.raises(DataError, match=said):
        summary(store, box=CUT, denominator="unclipped").compute()
    with pytest.raises(DataError, match=said):
        maps(store, "image", by="roi", cell_um=9).compute()
    shutil.rmtree(store / "counts")
    with pytest.raises(DataError, match=said):
        write_counts(store)


def test_a_store_that_lacks_a_shard_is_no_source(store, tmp_path):
    made = tmp_path / "made.ome.zarr"
    (tmp_path / "m.json").write_text('{"tiles": [{"path": "v.ome.zarr", "offset": [0, 0, 0]}]}')
    files_of(store / "0/image/c")[0].unlink()
    files_of(store / "labels/roi/0/roi/c")[0].unlink()
    for source in (store, f"{store}/0/image", tmp_path / "m.json", open_source(store)):
        with pytest.raises(DataError, match=r"source .*0/image/c/0/0/0 is missing; run thc verify"):
            convert(source, made, **SIZES)
        assert not made.exists()
    convert(f"{store}#level=1", made, **SIZES)  # which is all there
    with pytest.raises(DataError, match=r"source .*labels/roi/0/roi/c/0/0/0 is missing"):
        labels(store / "labels/roi", made)


def test_a_lost_plane_is_not_filled_in(tmp_path):
    store = tmp_path / "v.ome.zarr"
    convert(SOURCE, store, **SIZES)
    labels(f"{SOURCE}&channel=roi", store, "roi", "prasad2020-roi", planes=[3, 20])
    files_of(store / "labels/roi/0/roi/c")[0].unlink()
    with pytest.raises(DataError, match="is missing; run thc verify --repair"):
        interpolate(store, "roi", "filled")
    assert not (store / "labels/filled").exists()
