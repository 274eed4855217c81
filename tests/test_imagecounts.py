"""Counts of the image alone, taken while it is converted, or later."""

import json
from unittest.mock import Mock

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import new_store, read_files, read_voxels
from tests.strategies import Failing, boxes, source, volumes
from thc_dask import convert, histogram, summary, verify
from thc_dask.convert import carry_out, write_store
from thc_dask.count import write_counts
from thc_dask.errors import RequestError, UnfinishedError
from thc_dask.options import wanted
from thc_dask.query import ask
from thc_dask.sources import open_reader
from thc_dask.store.imagecounts import packed, unpacked
from thc_dask.store.read import Store

SOURCE = "phantom:70,90,130?seed=2"
SIZES = {"chunk": (16, 16, 16), "shard": (32, 32, 32)}


@settings(max_examples=15)
@given(st.data())
def test_counts_on_the_way_equal_numpy_and_those_taken_later(data):
    volume = data.draw(volumes([np.uint8]))
    url, later = new_store(), new_store()
    write_store(volume.source, url, count=True, **volume.options)
    write_store(volume.source, later, **volume.options)
    write_counts(later, "image")
    assert read_files(url) == read_files(later)
    found = histogram(url, "image", by_plane=True)
    assert found.dims == ("plane", "region", "intensity")
    assert found.region.values.tolist() == ["all"]
    expected = [np.bincount(plane.ravel(), minlength=256) for plane in volume.array]
    np.testing.assert_array_equal(found[:, 0], expected)
    box = data.draw(boxes(volume))
    try:
        part = Store(url).grid.extent_of(box)
    except RequestError:
        return
    inside = volume.array[part.slices]
    answer = ask(Store(url), "image", "image", box)
    np.testing.assert_array_equal(
        np.asarray(answer.data)[0], np.bincount(inside.ravel(), minlength=256)
    )


def test_every_executor_counts_the_same(tmp_path, executor):
    once, store = tmp_path / "once", tmp_path / "v.ome.zarr"
    with dask.config.set(scheduler="synchronous"):
        write_store(SOURCE, once, count=True, **SIZES)
    write_store(SOURCE, store, count=True, **SIZES)
    assert read_files(store) == read_files(once)


@pytest.mark.parametrize("counted_before", [True, False])
def test_what_was_cut_off_goes_on_counting(tmp_path, counted_before):
    store, whole = tmp_path / "v.ome.zarr", tmp_path / "whole"
    write_store(SOURCE, whole, count=True, **SIZES)
    with pytest.raises(OSError, match="went away"):
        write_store(Failing(open_reader(SOURCE), 12), store, count=counted_before, **SIZES)
    with pytest.raises(UnfinishedError):
        Store(store)
    write_store(SOURCE, store, count=True, resume=True, **SIZES)
    assert read_files(store) == read_files(whole)


def test_what_was_cut_off_may_end_without_a_table(tmp_path, monkeypatch):
    store, plain = tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr"
    write_store(SOURCE, plain, **SIZES)
    with monkeypatch.context() as patch:
        patch.setattr("thc_dask.store.publish.put_root", Mock(side_effect=OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            write_store(SOURCE, store, count=True, **SIZES)
    assert (store / "counts/image").is_dir()
    write_store(SOURCE, store, resume=True, **SIZES)
    assert read_files(store) == read_files(plain)


@pytest.mark.parametrize("shape", ["70,90,130", "1,20,300", "16,16,16"])
@pytest.mark.parametrize("count", [True, False])
def test_a_plan_counts_the_files_of_the_table(tmp_path, shape, count):
    source, store = f"phantom:{shape}", tmp_path / "v.ome.zarr"
    planned = write_store(source, store, count=count, dry_run=True, **SIZES)
    assert not store.exists()
    done = carry_out(source, store, wanted(count=count, **SIZES))
    made = [path for path in store.rglob("*") if path.is_file()]
    n_zeros = planned.n_shards - len([path for path in made if "image/c/" in str(path)])
    assert done.n_files == planned.n_files - n_zeros == len(made)


def test_no_counts_lie_about_afterwards(tmp_path):
    store = tmp_path / "v.ome.zarr"
    convert(SOURCE, store, count=True, **SIZES)
    assert not [key for key in read_files(store) if key.startswith("thc/receipts/image/")]
    found = verify(store)
    assert found["whole"]
    assert found["unknown"] == found["left_over"] == []


@pytest.mark.parametrize(
    "end", ["plane/counts/c/0/0/0", "chunk/counts/c/0/0/0", "chunk/chunk_x/c/0"]
)
def test_a_damaged_table_is_made_anew(tmp_path, end):
    store = tmp_path / "v.ome.zarr"
    write_store(SOURCE, store, count=True, **SIZES)
    before = read_files(store)
    (store / "counts/image" / end).write_bytes(b"damaged")
    assert [p["key"] for p in verify(store)["problems"]] == [f"counts/image/{end}"]
    assert verify(store, repair=True)["whole"]
    assert read_files(store) == before


def test_numbers_of_the_whole_image():
    url = new_store()
    write_store(SOURCE, url, count=True, **SIZES)
    image = read_voxels(url, "0/image")
    found = summary(url, "image", n_resamples=0).sel(region="all")
    assert found["mean"] == pytest.approx(image.mean())
    assert int(found["n_vox"]) == image.size


def test_sixteen_bits_are_not_counted():
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    with pytest.raises(RequestError, match="counted in uint8, and uint16 is to be stored"):
        write_store(source(array), new_store(), count=True)
    write_store(source(array), new_store(), count=True, window="0:20")


def test_a_finished_store_says_how_to_count_it():
    url = new_store()
    write_store(SOURCE, url, **SIZES)
    with pytest.raises(RequestError, match=r"thc count .* --labels image"):
        write_store(SOURCE, url, count=True, resume=True, **SIZES)
    write_counts(url, "image")
    write_store(SOURCE, url, count=True, resume=True, **SIZES)
    node = Store(url).nodes["counts/image/plane"]["attributes"]
    assert json.loads(json.dumps(node))["rows"] == "image"


@given(st.data())
def test_counts_behind_a_receipt_come_back_or_are_known_to_be_cut_off(data):
    n = data.draw(st.integers(1, 4))
    first = data.draw(st.integers(0, 255))
    last = data.draw(st.integers(first, 255))
    most = data.draw(st.sampled_from([1, 65535, 65536, 2**32 - 1]))
    numbers = np.zeros((n, 1, 256), np.uint32)
    numbers[:, :, first : last + 1] = np.random.default_rng(n).integers(0, most, endpoint=True)
    numbers[0, 0, first] = most
    written = packed(numbers)
    np.testing.assert_array_equal(unpacked(written), numbers)
    assert unpacked(written[: data.draw(st.integers(0, len(written) - 1))]) is None
