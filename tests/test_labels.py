import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import known_mask, mode_pyramid, new_store, read_files, read_voxels
from tests.strategies import Watched, extents, label_arrays, schemes, source, volumes
from thc_dask import convert, labels
from thc_dask.errors import DataError, ExistsError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.labels import write_labels
from thc_dask.schemes import Label, Scheme
from thc_dask.store.read import Store

GAPS = Scheme("gaps", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b"), Label(200, "c")))
SHAPE = (20, 18, 30)
SMALL = {"levels": 4, "chunk": (8, 8, 8), "shard": (16, 16, 16)}
TRUTH = np.random.default_rng(3).choice(GAPS.codes, SHAPE).astype(np.uint8)
RIGHT = TRUTH[::-1].copy()  # other labels, of the same codes
WRONG = TRUTH.copy()
WRONG[19, 17, 29] = 99


@pytest.fixture
def store():
    """A store without labels."""
    url = new_store()
    image = np.random.default_rng(4).integers(0, 256, SHAPE, np.uint8)
    convert(source(image), url, **SMALL)
    return url


def assert_holds(store, name, truth, known, scheme, n_levels=4):
    """Every level is the mode of what is known; what is known is what the store says."""
    dtype = np.uint8 if scheme.codes[-1] < 256 else np.uint16
    level0 = np.where(known, truth, 0).astype(dtype)
    for k, expected in enumerate(mode_pyramid(level0, known, n_levels)):
        found = read_voxels(store, f"labels/{name}/{k}/{name}")
        np.testing.assert_array_equal(found, expected, strict=True)
    said = Store(store).label_set(name).extents
    np.testing.assert_array_equal(known_mask(truth.shape, said), known)
    assert sum(e.n_vox for e in said) == known.sum()


def voxel_files(store):
    """Return shards and receipts."""
    return {
        key: data for key, data in read_files(store).items() if "/c/" in key or "receipts" in key
    }


@st.composite
def parts(draw, shape):
    """Two lists of boxes: the boxes of a list may overlap, the lists do not."""
    axis = draw(st.integers(0, 2))
    cut = draw(st.integers(1, shape[axis]))
    low = tuple(cut if i == axis else n for i, n in enumerate(shape))
    high = tuple(n - cut if i == axis else n for i, n in enumerate(shape))
    first = draw(st.lists(extents(low), min_size=1, max_size=4))
    if cut == shape[axis]:
        return first, []
    up = tuple(cut if i == axis else 0 for i in range(3))
    return first, [e.shift(up) for e in draw(st.lists(extents(high), max_size=3))]


@settings(max_examples=30)
@given(st.data())
def test_levels_equal_the_naive_mode_of_known_voxels(data):
    volume = data.draw(volumes([np.uint8]))
    scheme = data.draw(schemes())
    truth = data.draw(label_arrays(volume.array.shape, scheme))
    first, second = data.draw(parts(truth.shape))
    memory_bytes = data.draw(st.sampled_from([1, 2**30]))
    store, at_once = new_store(), new_store()
    for s in (store, at_once):
        convert(volume.source, s, **volume.options)
    options = {"extents": first, "memory_bytes": memory_bytes}
    write_labels(source(truth), store, "roi", scheme, **options)
    if second:
        write_labels(source(truth), store, into="roi", extents=second)
    known = known_mask(truth.shape, first + second)
    assert_holds(store, "roi", truth, known, scheme, volume.n_levels)
    # Step by step or at once, in little memory or much: the same bytes.
    write_labels(source(truth), at_once, "roi", scheme, extents=first + second)
    assert voxel_files(store) == voxel_files(at_once)
    np.testing.assert_array_equal(read_voxels(store, "0/image"), volume.array)


def test_added_zeros_can_empty_a_coarser_level():
    store, truth = new_store(), np.zeros((2, 8, 8), np.uint8)
    truth[0] = 7
    convert(source(truth), store, **SMALL)
    write_labels(source(truth), store, "roi", GAPS, planes=[0])
    assert (read_voxels(store, "labels/roi/1/roi") == 7).all()
    write_labels(source(truth), store, into="roi", planes=[1])
    # Four of eight are 7 and four are 0: ties go to the smallest code.
    assert not read_voxels(store, "labels/roi/1/roi").any()


WHOLE = Extent((0, 0, 0), SHAPE)
PLACES = [
    # the part of the truth that the file holds, how it is brought in, what is then known
    (np.s_[:], {}, [WHOLE]),
    (np.s_[:], {"planes": [9, 2]}, [Extent((z, 0, 0), (z + 1, 18, 30)) for z in (2, 9)]),
    (np.s_[[9, 2, 15]], {"planes": [9, 2, 15]},
     [Extent((z, 0, 0), (z + 1, 18, 30)) for z in (2, 9, 15)]),
    (np.s_[3:9, 5:, 1:2], {"offset": (3, 5, 1)}, [Extent((3, 5, 1), (9, 18, 2))]),
    (np.s_[3:9, 5:, 1:9], {"offset": (3, 5, 1), "planes": [8]}, [Extent((8, 5, 1), (9, 18, 9))]),
    (np.s_[3:9, 5:, 1:9], {"offset": (3, 5, 1), "extents": [Extent((4, 6, 2), (9, 7, 9))]},
     [Extent((4, 6, 2), (9, 7, 9))]),
    (np.s_[[9, 2]], {"planes": [9, 2], "extents": [Extent((0, 3, 4), (20, 8, 9))]},
     [Extent((z, 3, 4), (z + 1, 8, 9)) for z in (2, 9)]),
]  # fmt: skip


@pytest.mark.parametrize(("part", "options", "known"), PLACES)
def test_labels_lie_where_they_belong(store, part, options, known):
    labels(source(TRUTH[part]), store, "roi", GAPS, **options)
    assert_holds(store, "roi", TRUTH, known_mask(SHAPE, known), GAPS)


WRONG_REQUESTS = [
    (TRUTH[1:], {}, r"shape \(19, 18, 30\) does not fit the volume \(20, 18, 30\)"),
    (TRUTH[1:], {"offset": (2, 0, 0)}, r"does not fit the volume .* at offset \(2, 0, 0\)"),
    (TRUTH[1:], {"offset": (-1, 0, 0)}, r"does not fit the volume .* at offset \(-1, 0, 0\)"),
    (TRUTH, {"planes": [20]}, "the volume has planes 0 to 19"),
    (TRUTH, {"planes": [3, 3]}, "one is named twice"),
    (TRUTH[:2], {"planes": [3, 4, 5]}, "does not fit the volume"),
    (TRUTH, {"extents": [Extent((0, 0, 0), (21, 1, 1))]}, "reaches outside what the file covers"),
    (TRUTH[:9], {"offset": (0, 0, 0), "planes": [9]}, "planes .9. reaches outside"),
    (TRUTH.astype(np.float32), {}, "voxels are float32; labels are whole numbers"),
    (WRONG, {}, "code 99 at voxel z=19 y=17 x=29 is not in scheme 'gaps'"),
    (WRONG[19:], {"offset": (2, 0, 0)}, "code 99 at voxel z=2 y=17 x=29 is not in"),
    (TRUTH.astype(np.int16) * -1, {}, r"^labels voxels: code -\d+ at voxel"),
    (TRUTH.astype(np.uint64) * 2**40, {}, r"code \d+ at voxel"),
    (TRUTH, {"name": "a/b"}, "letters, digits"),
    (TRUTH, {"name": "a" * 65}, "at most 64 letters"),
    (TRUTH, {"name": "image"}, "'image'"),
    (TRUTH, {"name": "z"}, "z, y and x are kept for coordinates"),
    (TRUTH, {"scheme": None}, "say what the codes mean"),
]


@pytest.mark.parametrize(("array", "options", "message"), WRONG_REQUESTS)
def test_a_wrong_request_changes_nothing(store, array, options, message):
    before = read_files(store)
    with pytest.raises(RequestError, match=message):
        labels(source(array), store, **{"name": "roi", "scheme": GAPS} | options)
    assert read_files(store) == before


def test_what_is_known_is_not_known_twice(store):
    labels(source(TRUTH), store, "roi", GAPS, planes=[3, 4])
    before = read_files(store)
    with pytest.raises(RequestError, match="a part of it is known already"):
        labels(source(TRUTH), store, into="roi", planes=[4, 5])
    with pytest.raises(RequestError, match="has scheme 'gaps', not 'prasad2020-roi'"):
        labels(source(TRUTH), store, into="roi", scheme="prasad2020-roi", planes=[5])
    with pytest.raises(MissingError, match="no label set 'rio'; it has: roi"):
        labels(source(TRUTH), store, into="rio", planes=[5])
    with pytest.raises(ExistsError, match="has a label set 'roi'"):
        labels(source(TRUTH), store, "roi", GAPS)
    assert read_files(store) == before


def test_overwriting_leaves_nothing_of_what_was(store):
    labels(source(TRUTH), store, "roi", GAPS)
    empty = np.zeros(SHAPE, np.uint16)
    empty[:, :2] = 7
    labels(source(empty), store, "roi", "prasad2020-roi", extents=[WHOLE], overwrite=True)
    once = new_store()
    convert(source(read_voxels(store, "0/image")), once, **SMALL)
    labels(source(empty), once, "roi", "prasad2020-roi", extents=[WHOLE])
    assert read_files(store) == read_files(once)


@pytest.mark.parametrize("case", ["new", "overwrite", "into"])
@pytest.mark.parametrize("fault", ["code", "source"])
def test_labels_that_fail_leave_the_store_as_it_was(store, case, fault):
    known = [Extent((0, 0, 0), (20, 18, 15))]
    if case != "new":
        labels(source(TRUTH), store, "roi", GAPS, extents=known)
    before = read_files(store)
    bad = source(WRONG) if fault == "code" else Watched(source(RIGHT), breaks_at=(19, 17, 29))
    options = {
        "new": {"name": "roi", "scheme": GAPS},
        "overwrite": {"name": "roi", "scheme": GAPS, "overwrite": True},
        "into": {"into": "roi", "extents": [Extent((0, 0, 15), SHAPE)]},
    }[case]
    with pytest.raises((RequestError, DataError), match=r"99|damaged"):
        labels(bad, store, **options)
    assert read_files(store) == before
    opened = labels(source(RIGHT), store, **options)
    mixed = np.where(known_mask(SHAPE, known), TRUTH, RIGHT) if case == "into" else RIGHT
    np.testing.assert_array_equal(opened["labels/roi/0/roi"], mixed)
    assert_holds(store, "roi", mixed, np.ones(SHAPE, bool), GAPS)
