import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import (
    box_mask,
    joint_counts,
    known_mask,
    new_store,
    raise_if_computes,
    read_voxels,
)
from tests.strategies import boxes, extents, label_arrays, schemes, source, volumes
from thc_dask import histogram
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import RequestError
from thc_dask.grid import Box
from thc_dask.index import index_of
from thc_dask.labels import write_labels
from thc_dask.pairs import describe, make_pair
from thc_dask.query import ask
from thc_dask.schemes import Label, Scheme
from thc_dask.store.read import Store
from thc_dask.store.shards import ABSENT, OpenShard

SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b")))
SHAPE = (20, 18, 30)


@settings(max_examples=20)
@given(st.data())
def test_any_box_equals_numpy_with_tables_and_without(data):
    volume = data.draw(volumes([np.uint8]))
    scheme = data.draw(schemes())
    truth = data.draw(label_arrays(volume.array.shape, scheme))
    known = data.draw(st.lists(extents(truth.shape), min_size=1, max_size=3))
    asked = data.draw(st.lists(boxes(volume), min_size=3, max_size=3))
    url = new_store()
    write_store(volume.source, url, **volume.options)
    write_labels(source(truth), url, "roi", scheme, extents=known)
    centres = [read_voxels(url, f"0/{axis}") for axis in "zyx"]
    bare = Store(url)
    counted = write_counts(url)
    for box in [None, *asked]:
        inside = np.ones(truth.shape, bool) if box is None else box_mask(centres, box)
        if not inside.any():
            with pytest.raises(RequestError, match=r"holds no voxel centre|starts at"):
                ask(counted, "roi", box=box)
            continue
        mask = inside & known_mask(truth.shape, known)
        pair = (truth, volume.array, scheme.codes, np.arange(256), mask)
        planes = np.flatnonzero(mask.any(axis=(1, 2)))
        expected = joint_counts(*pair, np.indices(truth.shape)[0])
        for store in (bare, counted):
            with raise_if_computes():
                total = ask(store, "roi", box=box)
                apart = ask(store, "roi", box=box, by_plane=True)
            np.testing.assert_array_equal(total.data, expected.sum(axis=0), strict=False)
            assert apart.planes.tolist() == planes.tolist()
            np.testing.assert_array_equal(apart.data, expected[planes])
            assert total.data.dtype == apart.data.dtype == np.int64


@pytest.fixture
def counted():
    """A store with tables, whose chunks are 8 voxels a side."""
    rng = np.random.default_rng(5)
    url = new_store()
    write_store(source(rng.integers(0, 256, SHAPE, np.uint8)), url, chunk=(8, 8, 8))
    truth = rng.choice(SCHEME.codes, SHAPE).astype(np.uint8)
    write_labels(source(truth), url, "roi", SCHEME)
    return write_counts(url)


@pytest.mark.parametrize(
    ("box", "answer", "is_lazy"),
    [
        (None, "plane table", False),
        (Box((3, -np.inf, 0), (9, 100, 30)), "plane table", False),
        (Box((8, 8, 0), (20, 16, 24)), "chunk table", False),
        (
            Box((8, 8, 0), (20, 16, 23)),
            "chunk table, and voxels of the 2 chunks that the box cuts",
            True,
        ),
    ],
)
def test_tables_answer_what_they_can(counted, box, answer, is_lazy):
    found = ask(counted, "roi", box=box)
    assert found.answered_from == answer
    assert hasattr(found.data, "dask") is is_lazy


def test_without_tables_the_answer_says_so(counted):
    url = counted.url
    write_labels(source(np.zeros(SHAPE, np.uint8)), url, "other", SCHEME)
    found = ask(Store(url), "other")
    assert found.answered_from == "voxels, because there are no tables; thc count makes them"
    assert np.asarray(found.data)[0].sum() == np.prod(SHAPE)


def test_stale_tables_are_never_used(counted):
    """Every replacement counts anew, also where no voxel has changed."""
    url, image = counted.url, read_voxels(counted.url, "0/image")
    truth = read_voxels(url, "labels/roi/0/roi")
    other = np.where(truth == 3, 7, truth)
    fewer = Scheme("t", "region", (Label(0, "none"), Label(7, "b")))
    for array, scheme, options in (
        (truth[::-1], SCHEME, {}),
        (other, SCHEME, {}),
        (other, fewer, {}),  # the same voxels, another scheme
        (other, fewer, {"planes": [5]}),
        (np.where(other == 7, 0, other), fewer, {"planes": [5, 6]}),
        (np.where(other == 7, 0, other), fewer, {"planes": [5]}),  # all zero both times
    ):
        write_labels(source(array), url, "roi", scheme, overwrite=True, **options)
        known = known_mask(SHAPE, Store(url).label_set("roi").extents)
        expected = joint_counts(array, image, scheme.codes, np.arange(256), known)[0]
        stale = histogram(url)
        assert "the tables are of other voxels" in stale.attrs["answered_from"]
        np.testing.assert_array_equal(stale, expected)
        fresh = histogram(write_counts(url))
        assert fresh.attrs["answered_from"] == "plane table"
        np.testing.assert_array_equal(fresh, expected)


def test_labels_that_are_added_are_counted(counted):
    url = counted.url
    truth = np.full(SHAPE, 7, np.uint8)
    write_labels(source(truth), url, "part", SCHEME, planes=[1])
    write_counts(url, "part")
    write_labels(source(truth * 0), url, into="part", planes=[2])
    found = histogram(url, "part")
    assert "the tables are of other voxels" in found.attrs["answered_from"]
    assert found.sum("intensity").values.tolist() == [18 * 30, 0, 18 * 30]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box((3, 0, 0), (3, 9, 9)), "along z it starts at 3 um and stops at 3 um"),
        (Box((0, 9, 0), (3, 0, 9)), "along y it starts at 9 um and stops at 0 um"),
        (Box((0, 0, 29.5), (9, 9, 60)), r"spans 0:19,0:17,0:29 um \(z,y,x\)"),
        (Box((0.2, 0, 0), (0.8, 9, 9)), "holds no voxel centre"),
    ],
)
def test_boxes_that_hold_nothing_are_refused(counted, box, message):
    with pytest.raises(RequestError, match=message):
        ask(counted, "roi", box=box)


def test_a_box_that_is_aligned_is_answered_by_tables_and_says_so(counted):
    box = Box((3, 9, 1), (14, 17, 29))
    exact, found = (histogram(counted, box=box, aligned=a) for a in (False, True))
    assert "aligned" not in exact.attrs
    assert found.attrs["answered_from"] == "chunk table"
    assert found.attrs["box_vox"] == "0:16,8:16,0:30"
    assert found.attrs["aligned"].startswith("asked for 2.5:13.5,8.5:16.5,0.5:28.5 um; the faces")
    whole = Box((0, 8, 0), (16, 16, 30))
    np.testing.assert_array_equal(found, histogram(counted, box=whole))
    by_plane = histogram(counted, box=box, aligned=True, by_plane=True)
    np.testing.assert_array_equal(by_plane.sum("plane"), found)


@settings(max_examples=10)
@given(st.data())
def test_no_more_is_read_than_the_chunks_that_a_box_cuts(data):
    volume = data.draw(volumes([np.uint8]))
    url = new_store()
    write_store(volume.source, url, **volume.options)
    truth = data.draw(label_arrays(volume.array.shape, SCHEME))
    write_labels(source(truth), url, "roi", SCHEME)
    store = write_counts(url)
    box = data.draw(boxes(volume))
    try:
        extent = store.grid.extent_of(box)
    except RequestError:
        return
    pair = make_pair(store, "roi")
    cut = index_of(store, describe(store, pair)).cut(extent)
    if extent.shape[1:] == store.grid.shape[1:]:
        cut = []  # the table of planes answers
    expected = sum(stored_bytes(array, place) for place in cut
                   for array in (pair.rows.array, pair.columns.array))  # fmt: skip
    read = []
    read_all, sources_of = OpenShard.read_all, OpenShard.sources

    def noting(self, entries):
        read.extend(size for _, size in entries)
        return read_all(self, entries)

    def noting_sources(self, entries):
        before = len(read)
        found = sources_of(self, entries)
        if len(read) == before:  # else ``read_all`` was asked
            read.extend(entries[:, 1].tolist())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenShard, "read_all", noting)
        patch.setattr(OpenShard, "sources", noting_sources)
        np.asarray(ask(store, "roi", box=box).data)
    assert sum(read) == expected


def stored_bytes(array, place):
    """Return the bytes that a chunk takes in its shard."""
    with array.open_shard(place) as shard:
        offset, size = shard.entry(place) if shard.index is not None else (ABSENT, 0)
        return 0 if offset == ABSENT else size
