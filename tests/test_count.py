import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import joint_counts, known_mask, new_store, read_files
from tests.strategies import extents, label_arrays, schemes, source, volumes
from thc_dask import count, info
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.labels import write_labels
from thc_dask.schemes import Label, Scheme

INTENSITIES = np.arange(256)
REGIONS = Scheme("r", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b c")))
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(1, "vessel")))


def open_table(store, path):
    """Return a table as anyone reads it."""
    return xr.open_zarr(store, group=path, consolidated=False, chunks=None)


def assert_table(store, key, chunk, rows, columns, row_codes, column_codes, known):
    """Plane by plane and chunk by chunk, the store's counts are numpy's."""
    pair = (rows, columns, row_codes, column_codes, known)
    where = np.indices(known.shape)
    planes = open_table(store, f"counts/{key}/plane")
    held = np.flatnonzero(known.any(axis=(1, 2)))
    assert planes["plane"].values.tolist() == held.tolist()
    assert planes["counts"].dtype == np.int64
    expected = joint_counts(*pair, where[0])
    np.testing.assert_array_equal(planes["counts"], expected[held])

    chunks = open_table(store, f"counts/{key}/chunk")
    places = [chunks[f"chunk_{axis}"].values for axis in "zyx"]
    n = [-(-n // c) for n, c in zip(known.shape, chunk, strict=True)]
    number = np.ravel_multi_index([w // c for w, c in zip(where, chunk, strict=True)], n)
    held = np.unique(number[known])
    assert np.ravel_multi_index(places, n).tolist() == held.tolist()
    assert chunks["counts"].dtype == np.uint32
    expected = joint_counts(*pair, number)
    np.testing.assert_array_equal(chunks["counts"], expected[held])


@settings(max_examples=15)
@given(st.data())
def test_tables_equal_numpy_bit_for_bit(data):
    volume = data.draw(volumes([np.uint8]))
    store, shape = new_store(), volume.array.shape
    write_store(volume.source, store, **volume.options)
    sets = {}
    for name, kind in (("roi", "region"), ("micro", "structure")):
        scheme = data.draw(schemes(kind))
        array = data.draw(label_arrays(shape, scheme))
        boxes = data.draw(st.lists(extents(shape), min_size=1, max_size=3))
        write_labels(source(array), store, name, scheme, extents=boxes)
        sets[name] = array, scheme.codes, known_mask(shape, boxes)
    write_counts(store)
    chunk = tuple(n if n <= c else c for n, c in zip(shape, volume.chunk, strict=True))
    for name, (array, codes, known) in sets.items():
        assert_table(store, name, chunk, array, volume.array, codes, INTENSITIES, known)
    (roi, roi_codes, roi_known), (micro, micro_codes, micro_known) = sets.values()
    assert_table(
        store, "micro_by_roi", chunk, roi, micro, roi_codes, micro_codes, roi_known & micro_known
    )


def test_default_chunks_of_a_larger_volume():
    rng, shape, store = np.random.default_rng(3), (66, 130, 200), new_store()
    image = rng.integers(0, 256, shape, np.uint8)
    roi = rng.choice(REGIONS.codes, shape).astype(np.uint8)
    write_store(source(image), store)
    known = [Extent((1, 2, 3), (66, 129, 70)), Extent((60, 0, 0), (61, 130, 200))]
    write_labels(source(roi), store, "roi", REGIONS, extents=known)
    write_counts(store)
    mask = known_mask(shape, known)
    assert_table(store, "roi", (64, 64, 64), roi, image, REGIONS.codes, INTENSITIES, mask)


@pytest.fixture
def store():
    """A store of 10 x 20 x 30 voxels with regions and structures."""
    rng = np.random.default_rng(1)
    url, shape = new_store(), (10, 20, 30)
    write_store(source(rng.integers(0, 256, shape, np.uint8)), url, chunk=(8, 8, 8))
    for name, scheme in (("roi", REGIONS), ("micro", STRUCTURES)):
        array = rng.choice(scheme.codes, shape).astype(np.uint8)
        write_labels(source(array), url, name, scheme, planes=[2, 7])
    return url


def test_tables_say_what_they_are(store):
    opened = count(store, "roi")
    assert list(opened["counts"].children) == ["roi"]
    table = opened["counts/roi/plane"]
    assert table["counts"].dims == ("plane", "region", "intensity")
    assert table["region"].values.tolist() == [0, 3, 7]
    assert table["region"].attrs["flag_meanings"] == "none a b_c"
    assert table["region"].attrs["flag_values"] == [0, 3, 7]
    np.testing.assert_array_equal(table["z"], opened["0/z"][[2, 7]])
    assert opened["counts/roi/chunk/counts"].dims == ("chunk", "region", "intensity")
    assert info(store)["tables"] == {"roi": "up to date"}
    count(store)
    assert set(info(store)["tables"]) == {"roi", "micro", "micro_by_roi"}
    assert not [v for v in info(store)["tables"].values() if v != "up to date"]


def test_counting_again_gives_the_same_bytes(store):
    count(store)
    before = read_files(store)
    seen = []
    count(store, ["micro", "roi"], progress=lambda done, total: seen.append((done, total)))
    assert read_files(store) == before
    assert seen == []  # nothing had changed


def test_sets_that_are_never_known_together_have_an_empty_table(store):
    rng = np.random.default_rng(2)
    other = rng.choice(STRUCTURES.codes, (10, 20, 30)).astype(np.uint8)
    write_labels(source(other), store, "cells", STRUCTURES, planes=[3])
    write_counts(store, ["roi", "cells"])
    table = open_table(store, "counts/cells_by_roi/plane")
    assert dict(table["counts"].sizes) == {"plane": 0, "region": 3, "structure": 2}
    assert table["plane"].dtype == np.int64
    assert open_table(store, "counts/cells_by_roi/chunk")["counts"].sizes["chunk"] == 0


def test_what_cannot_be_counted_changes_nothing(store):
    before = read_files(store)
    with pytest.raises(MissingError, match="no label set 'rio'; it has: micro, roi"):
        count(store, "rio")
    assert read_files(store) == before
    bare = new_store()
    write_store(source(np.zeros((2, 2, 2), np.uint8)), bare)
    with pytest.raises(MissingError, match="no label set to count by; add one with thc labels"):
        count(bare)
    deep = new_store()
    write_store(source(np.zeros((2, 2, 2), np.uint16)), deep)
    write_labels(source(np.zeros((2, 2, 2), np.uint8)), deep, "roi", REGIONS)
    with pytest.raises(RequestError, match="holds uint16 voxels; intensities are counted in uint8"):
        count(deep)


def test_tables_of_a_set_that_is_replaced_are_stale(store):
    count(store)
    shape = (10, 20, 30)
    for change in (
        {"extents": [Extent((2, 0, 0), (3, 20, 30))]},  # less is known
        {"scheme": Scheme("q", "region", (Label(0, "none"), Label(2, "d"), Label(7, "b c")))},
    ):
        options = {"scheme": REGIONS, "planes": [2, 7]} | change
        # The same voxels, all zero: what they mean differs.
        write_labels(source(np.zeros(shape, np.uint8)), store, "roi", REGIONS, planes=[2, 7],
                     overwrite=True)  # fmt: skip
        count(store)
        assert set(info(store)["tables"].values()) == {"up to date"}
        write_labels(source(np.zeros(shape, np.uint8)), store, "roi", overwrite=True, **options)
        stale = "stale: thc count makes it anew"
        assert info(store)["tables"] == {"roi": stale, "micro": "up to date", "micro_by_roi": stale}
