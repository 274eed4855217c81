"""What has not changed is not counted again, and what has changed always is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import joint_counts, known_mask, new_store, read_files, read_voxels
from tests.strategies import source
from thc_dask import histogram, info
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.grid import Extent
from thc_dask.labels import write_labels
from thc_dask.renewal import layer_of
from thc_dask.schemes import Label, Scheme
from thc_dask.store.location import locate
from thc_dask.store.read import Store

SHAPE = (40, 20, 24)
SIZES = {"chunk": (4, 8, 8), "shard": (8, 16, 16)}  # five layers of 2 x 2 shards
REGIONS = Scheme("r", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b")))
RNG = np.random.default_rng(8)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.choice(REGIONS.codes, SHAPE).astype(np.uint8)


@pytest.fixture
def url():
    """A counted store."""
    made = new_store()
    write_store(source(IMAGE), made, **SIZES)
    write_labels(source(ROI), made, "roi", REGIONS, planes=[2, 17, 30])
    write_counts(made)
    return made


def counted(url, labels="roi"):
    """Count, hold the tables against numpy, and return how many shards were counted."""
    seen = []
    write_counts(url, labels, progress=lambda done, total: seen.append((done, total)))
    store = Store(url)
    labels = store.label_set("roi")
    known = known_mask(SHAPE, labels.extents)
    truth = read_voxels(url, "labels/roi/0/roi")
    expected = joint_counts(truth, IMAGE, labels.scheme.codes, np.arange(256), known,
                            np.indices(SHAPE)[0])  # fmt: skip
    found = histogram(url, by_plane=True)
    assert found.attrs["answered_from"] == "plane table"
    np.testing.assert_array_equal(found, expected[found["plane"]])
    by_chunk = read_voxels(url, "counts/roi/chunk/counts")
    np.testing.assert_array_equal(by_chunk.sum(axis=0), expected.sum(axis=0))
    assert info(url)["tables"]["roi"] == "up to date"
    return len(seen)


def test_only_layers_that_changed_are_counted(url):
    assert counted(url) == 0
    write_labels(source(ROI), url, into="roi", planes=[18])  # of the layer 16:24
    assert counted(url) == 4
    write_labels(source(ROI), url, into="roi", planes=[35])  # of a layer without labels
    assert counted(url) == 4


def test_counts_of_what_is_kept_are_those_of_a_store_that_was_never_changed(url):
    once = new_store()
    write_store(source(IMAGE), once, **SIZES)
    for planes in ([18], [35]):
        write_labels(source(ROI), url, into="roi", planes=planes)
        write_counts(url)
    write_labels(source(ROI), once, "roi", REGIONS, planes=[2, 17, 30])
    for planes in ([18], [35]):
        write_labels(source(ROI), once, into="roi", planes=planes)
    write_counts(once)
    assert read_files(url) == read_files(once)


@settings(max_examples=12)
@given(st.data())
def test_whatever_is_replaced_the_tables_are_those_of_numpy(data):
    url = new_store()
    write_store(source(IMAGE), url, **SIZES)
    current = ROI.copy()
    for step in range(3):
        planes = data.draw(st.lists(st.integers(0, 39), min_size=1, max_size=4, unique=True))
        for z in data.draw(st.lists(st.sampled_from(planes), max_size=2)):
            current[z] = np.roll(current[z], 1, axis=0)
        write_labels(source(current), url, "roi", REGIONS, planes=planes, overwrite=step > 0)
        counted(url)


def test_other_codes_count_everything(url):
    other = Scheme("q", "region", (Label(0, "none"), Label(2, "x"), Label(3, "a"), Label(7, "b")))
    write_labels(source(ROI), url, "roi", other, planes=[2, 17, 30], overwrite=True)
    assert counted(url) == 12


def test_other_names_count_nothing(url):
    other = Scheme("q", "region", (Label(0, "none"), Label(3, "new"), Label(7, "b")))
    write_labels(source(ROI), url, "roi", other, planes=[2, 17, 30], overwrite=True)
    assert counted(url) == 0
    assert histogram(url).region.values.tolist() == ["none", "new", "b"]


@pytest.mark.parametrize(
    "file", ["plane/counts/c/0/0/0", "chunk/counts/c/0/0/0", "chunk/chunk_y/c/0"]
)
def test_damaged_tables_are_no_ground_to_build_on(url, file):
    location, key = locate(url), f"counts/roi/{file}"
    data = bytearray(location.get(key))
    data[len(data) // 2] ^= 1
    location.put(key, bytes(data))
    assert counted(url) == 12


def test_lost_receipts_count_everything(url):
    locate(url).remove("thc/receipts/counts/roi.jsonl")
    assert counted(url) == 12


def test_layers_cut_boxes():
    assert str(layer_of(Extent((3, 1, 2), (20, 5, 6)), 0, 8)) == "3:8,1:5,2:6"
