import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from tests.assertions import (
    box_mask,
    joint_counts,
    known_mask,
    new_store,
    raise_if_computes,
    read_voxels,
)
from tests.strategies import Watched, source
from thc_dask import compare, count, fractions, histogram, labels, open_source, open_volume
from thc_dask.convert import write_store
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Box, Extent
from thc_dask.schemes import Label, Scheme

SHAPE, UM = (20, 18, 30), (2.0, 0.5, 1.17)
REGIONS = Scheme(
    "r", "region", (Label(0, "none"), Label(3, "A"), Label(7, "B"), Label(9, "C"), Label(11, "D"))
)
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(2, "cell"), Label(5, "axon")))
BOX = Box((3.0, 1.0, 4.0), (31.0, 8.0, 30.1))

RNG = np.random.default_rng(6)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.choice([0, 3, 7, 9], SHAPE).astype(np.uint8)  # nothing is ever D
MICRO = RNG.choice(STRUCTURES.codes, SHAPE).astype(np.uint8)
ROI_PLANES, MICRO_PLANES = [2, 3, 9, 12, 14, 15], [3, 9, 11, 12, 14]


def planes_mask(planes):
    return known_mask(SHAPE, [Extent((z, 0, 0), (z + 1, *SHAPE[1:])) for z in planes])


@pytest.fixture(params=["tables", "voxels"])
def store(request):
    """A store with both kinds of labels, known on some planes, with tables and without."""
    url = new_store()
    write_store(source(IMAGE, UM, (1.0, 0.0, 0.0)), url, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(ROI), url, "roi", REGIONS, planes=ROI_PLANES)
    labels(source(MICRO), url, "microstructure", STRUCTURES, planes=MICRO_PLANES)
    if request.param == "tables":
        count(url)
    return url


@pytest.fixture(params=[None, BOX])
def box(request, store):
    """Everything, or a box; and the voxels inside."""
    if request.param is None:
        return None, np.ones(SHAPE, bool)
    return request.param, box_mask([read_voxels(store, f"0/{axis}") for axis in "zyx"], BOX)


def test_histogram_is_the_counts_of_known_voxels_by_name(store, box):
    where, inside = box
    found = histogram(store, "roi", where)
    mask = inside & planes_mask(ROI_PLANES)
    expected = joint_counts(ROI, IMAGE, REGIONS.codes, np.arange(256), mask)[0]
    np.testing.assert_array_equal(found, expected)
    assert found.dims == ("region", "intensity")
    assert found.name == "count"
    assert found["region"].values.tolist() == ["none", "A", "B", "C", "D"]
    assert found["code"].values.tolist() == [0, 3, 7, 9, 11]
    assert int(found.sel(region="B", intensity=7)) == ((IMAGE == 7) & (ROI == 7) & mask).sum()


def test_histogram_by_plane_adds_up_and_says_where_planes_lie(store, box):
    where, inside = box
    found = histogram(store, "roi", where, by_plane=True)
    held = [z for z in ROI_PLANES if inside[z].any()]
    assert found["plane"].values.tolist() == held
    assert found["z"].values.tolist() == [1.0 + 2.0 * z for z in held]
    np.testing.assert_array_equal(found.sum("plane"), histogram(store, "roi", where))


def test_box_is_told_by_its_outer_faces(store):
    attrs = histogram(store, "roi", BOX).attrs
    assert attrs["box_vox"] == "1:15,2:16,4:26"
    faces = [(1 + 2 * 0.5, 1 + 2 * 14.5), (0.5 * 1.5, 0.5 * 15.5), (1.17 * 3.5, 1.17 * 25.5)]
    assert attrs["box_um"] == ",".join(f"{a:g}:{b:g}" for a, b in faces)


def test_fractions_count_voxels_that_both_sets_know(store, box):
    where, inside = box
    found = fractions(store, box=where, n_resamples=50)
    mask = inside & planes_mask(ROI_PLANES) & planes_mask(MICRO_PLANES)
    counts = joint_counts(ROI, MICRO, REGIONS.codes, STRUCTURES.codes, mask)[0]
    np.testing.assert_array_equal(found["count"], counts)
    np.testing.assert_array_equal(found["n_vox"], counts.sum(axis=1))
    n_planes = [(mask & (code == ROI)).any(axis=(1, 2)).sum() for code in REGIONS.codes]
    np.testing.assert_array_equal(found["n_planes"], n_planes)
    np.testing.assert_array_equal(
        found["fraction"][:4], counts[:4] / counts[:4].sum(axis=1, keepdims=True), strict=False
    )
    assert np.isnan(found["fraction"].sel(region="D")).all()
    some = found.isel(region=slice(4))
    assert (some["low"] <= some["fraction"]).all()
    assert (some["fraction"] <= some["high"]).all()
    assert found["structure"].values.tolist() == ["background", "cell", "axon"]


def test_compare_equals_scipy(store, box):
    where, inside = box
    found = compare(store, box=where)
    mask = inside & planes_mask(ROI_PLANES)
    h = joint_counts(ROI, IMAGE, REGIONS.codes, np.arange(256), mask)[0][1:4]
    assert found["region"].values.tolist() == ["A", "B", "C", "D"]
    for i in range(3):
        for j in range(3):
            kl = entropy(h[i] + 1e-6, h[j] + 1e-6)
            assert found["kl"].values[i, j] == pytest.approx(kl, rel=1e-9, abs=1e-12)
            js = jensenshannon(h[i] / h[i].sum(), h[j] / h[j].sum()) ** 2
            assert found["js"].values[i, j] == pytest.approx(js, rel=1e-9, abs=1e-12)
    assert np.isnan(found["js"].sel(region="D")).all()
    assert np.isnan(found["js"].sel(other="D")).all()
    assert found["n_vox"].values.tolist() == [*h.sum(axis=1), 0]


def test_without_tables_nothing_is_computed_before_it_is_asked_for(store):
    with raise_if_computes():
        volume = open_volume(store)
        answers = [
            histogram(volume, box=BOX),
            histogram(volume, box=BOX, by_plane=True),
            *fractions(volume, box=BOX).data_vars.values(),
            *compare(volume, box=BOX).data_vars.values(),
        ]
    # Tables answer what they can at once; a box that cuts chunks needs voxels either way.
    assert answers[0].chunks is not None
    for answer in answers:
        assert answer.shape == answer.compute().shape
        assert answer.dtype == answer.compute().dtype


def test_a_source_is_opened_without_reading_it():
    watched = Watched(source(IMAGE, UM))
    with raise_if_computes():
        opened = open_source(watched)
    assert watched.boxes == []
    assert opened.dims == ("z", "y", "x")
    assert opened["y"].values[1] == 0.5
    np.testing.assert_array_equal(opened, IMAGE)
    assert watched.boxes


def test_regions_and_structures_that_nobody_knows_together(store):
    labels(source(MICRO), store, "late", STRUCTURES, planes=[0, 1])
    found = fractions(store, of="late").compute()
    assert not found["count"].any()
    assert np.isnan(found["fraction"]).all()
    assert np.isnan(found["low"]).all()


def test_questions_that_make_no_sense(store):
    with pytest.raises(MissingError, match="no label set 'rio'; it has: microstructure, roi"):
        histogram(store, "rio")
    with pytest.raises(RequestError, match="both are label sets of regions"):
        fractions(store, of="roi", by="roi")
    with pytest.raises(RequestError, match="smoothing -1: must be 0 or more"):
        compare(store, smoothing=-1)
    with pytest.raises(RequestError, match="not a volume"):
        histogram(np.zeros(3))
