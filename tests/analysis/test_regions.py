import numpy as np
import pytest
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
from thc_dask import count, fractions, histogram, labels, open_source, open_volume, summary
from thc_dask.analysis.regions import emptiness
from thc_dask.convert import write_store
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Box, Extent
from thc_dask.kernels.statistics import Resampling, bootstrap_fractions, intervals, summary_of
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


@pytest.mark.parametrize("ask", [fractions, summary])
def test_without_intervals_a_box_is_answered_by_the_table_of_chunks(store, box, ask):
    where, _ = box
    found, drawn = (ask(store, box=where, n_resamples=n) for n in (0, 50))
    for name in set(found) - {"note"}:
        if not name.endswith(("low", "high")):
            np.testing.assert_array_equal(found[name], drawn[name])
    assert "n_planes" not in found
    assert set(found["note"].values.ravel()) == {"", "no known voxels"}
    chunks = Box((1.0, 0.0, 0.0), (1.0 + 16 * UM[0], 8 * UM[1], 16 * UM[2]))
    said = ask(store, box=chunks, n_resamples=0).attrs["answered_from"]
    tables = "plane table" in histogram(store).attrs["answered_from"]
    assert said == ("chunk table" if tables else "voxels, because there are no tables; thc count "
                    "makes them")  # fmt: skip
    said = ask(store, box=chunks, n_resamples=50).attrs["answered_from"]
    assert said.startswith("voxels, because no table keeps" if tables else "voxels, because there")


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


@pytest.mark.parametrize("denominator", ["known", "foreground", "unclipped"])
def test_denominators(store, box, denominator):
    where, inside = box
    found = fractions(store, box=where, n_resamples=20, denominator=denominator).compute()
    mask = inside & planes_mask(ROI_PLANES) & planes_mask(MICRO_PLANES)
    if denominator == "unclipped":
        mask &= (IMAGE > 0) & (IMAGE < 255)
    counts = joint_counts(ROI, MICRO, REGIONS.codes, STRUCTURES.codes, mask)[0]
    names = ["background", "cell", "axon"]
    if denominator == "foreground":
        counts, names = counts[:, 1:], names[1:]
    assert found["structure"].values.tolist() == names
    assert found["structure_code"].values.tolist() == [0, 2, 5][-len(names) :]
    np.testing.assert_array_equal(found["count"], counts)
    np.testing.assert_array_equal(found["n_vox"], counts.sum(axis=1))
    np.testing.assert_array_equal(
        found["fraction"][:4], counts[:4] / counts[:4].sum(axis=1, keepdims=True), strict=False
    )
    assert denominator in ("known", "foreground") or "1 to 254" in found.attrs["denominator"]
    reason = {"known": "", "foreground": " in any structure", "unclipped": " that are not clipped"}
    note = f"no known voxels{reason[denominator]}"
    assert found["note"].sel(region="D").values.tolist() == [note] * len(names)
    assert set(found["note"].sel(region="A").values.tolist()) == {""}


@pytest.mark.parametrize("denominator", ["known", "unclipped"])
def test_summary_is_numpys_of_the_voxels(store, box, denominator):
    where, inside = box
    found = summary(store, box=where, n_resamples=30, denominator=denominator).compute()
    mask = inside & planes_mask(ROI_PLANES)
    if denominator == "unclipped":
        mask &= (IMAGE > 0) & (IMAGE < 255)
    for name, code in (("A", 3), ("B", 7)):
        voxels = IMAGE[mask & (code == ROI)]
        one = found.sel(region=name)
        assert int(one["n_vox"]) == len(voxels)
        assert float(one["mean"]) == pytest.approx(voxels.mean())
        assert float(one["sd"]) == pytest.approx(voxels.std())
        assert float(one["p25"]) == np.percentile(voxels, 25, method="inverted_cdf")
        assert float(one["entropy_bits"]) == pytest.approx(entropy(np.bincount(voxels), base=2))
        for measure in found.attrs["measures"]:
            assert float(one[f"{measure}_low"]) <= float(one[measure])
            assert float(one[measure]) <= float(one[f"{measure}_high"])
    nothing = found.sel(region="D")
    assert np.isnan(float(nothing["mean"]))
    assert str(nothing["note"].values).startswith("no known voxels")


def test_one_plane_has_no_interval_and_says_why(store):
    plane = Box((7.0, 0, 0), (8.0, 99, 99))  # plane 3 alone
    shares = fractions(store, box=plane, n_resamples=20).compute()
    assert shares["n_planes"].values.tolist() == [1, 1, 1, 1, 0]
    assert np.isfinite(shares["fraction"][:4]).all()
    assert np.isnan(shares["low"]).all()
    assert set(shares["note"][:4].values.ravel()) == {"one plane only: no interval"}
    found = summary(store, box=plane, n_resamples=20).compute()
    assert found["note"].values.tolist() == ["one plane only: no interval"] * 4 + [
        "no known voxels"
    ]
    assert np.isnan(found["mean_low"]).all()


def test_planes_are_drawn_in_blocks(store):
    """Planes 14 and 15 are one block; what is drawn is the sum of both."""
    found = summary(store, n_resamples=99, block=2).compute()
    planes = histogram(store, "roi", by_plane=True).values
    pooled = np.add.reduceat(planes, [0, 2, 3, 4], axis=0)  # 2 and 3, 9, 12, 14 and 15
    how = Resampling(99)
    for r in range(4):
        low, high = intervals(
            lambda h: summary_of(h[..., 0, :])["mean"][..., None], pooled[:, r : r + 1], how=how
        )
        assert float(found["mean_low"][r]) == low[0]
        assert float(found["mean_high"][r]) == high[0]
    assert found.attrs["interval"] == ("95% bootstrap over blocks of 2 planes, BCa where defined")
    assert found["n_planes"].values.tolist()[:4] == [6] * 4


LEFT, RIGHT = Extent((0, 0, 0), (20, 18, 13)), Extent((0, 0, 13), (20, 18, 30))


def test_cubes_are_drawn_then_their_planes(store, box):
    where, inside = box
    found = fractions(store, box=where, n_resamples=99, cubes=[LEFT, RIGHT], seed=3).compute()
    both = [z for z in ROI_PLANES if z in MICRO_PLANES and inside[z].any()]
    tables = []
    for cube in (LEFT, RIGHT):
        for z in both:
            mask = known_mask(SHAPE, [cube]) & planes_mask([z]) & inside
            tables.append(joint_counts(ROI, MICRO, REGIONS.codes, STRUCTURES.codes, mask)[0])
    names = np.repeat([0, 1], len(both))
    low, high = bootstrap_fractions(np.array(tables), 99, seed=3, cubes=names)
    np.testing.assert_array_equal(found["low"], low)
    np.testing.assert_array_equal(found["high"], high)
    np.testing.assert_array_equal(found["count"], np.sum(tables, axis=0))
    assert "cubes and planes within them" in found.attrs["interval"]


def test_cubes_follow_from_where_labels_are_known():
    url = new_store()
    write_store(source(IMAGE, UM), url, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(ROI), url, "roi", REGIONS)
    planes = [Extent((z, y, 2), (z + 1, y + 6, 9)) for y in (0, 9) for z in (1, 5, 8)]
    labels(source(MICRO), url, "microstructure", STRUCTURES, extents=planes)
    found = fractions(url, n_resamples=50, cubes="auto").compute()
    cubes = [Extent((1, 0, 2), (9, 6, 9)), Extent((1, 9, 2), (9, 15, 9))]
    wanted = fractions(url, n_resamples=50, cubes=cubes).compute()
    for name in ("fraction", "low", "high", "count"):
        np.testing.assert_array_equal(found[name], wanted[name])
    np.testing.assert_array_equal(found["fraction"], fractions(url)["fraction"])
    assert found["n_planes"].values.tolist() == [6, 6, 6, 6, 0]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda s: fractions(s, denominator="all"), "'all': give one of known, foreground, unc"),
        (lambda s: summary(s, denominator="foreground"), "'foreground': give one of known, unc"),
        (lambda s: summary(s, block=0), "block 0: give a number of planes"),
        (lambda s: fractions(s, block=1.5), "block 1.5: give a number of planes"),
        (lambda s: summary(s, n_resamples=-1), "n_resamples -1"),
        (lambda s: summary(s, n_resamples=10.5), "n_resamples 10.5: give a whole number"),
        (lambda s: fractions(s, n_resamples=8), "n_resamples 8: give .* at least 9, or 0 for none"),
        (lambda s: fractions(s, seed=0.5), "seed 0.5: give a whole number"),
        (lambda s: fractions(s, confidence="0.9"), "confidence '0.9': give a number"),
        (
            lambda s: fractions(s, cubes=[BOX]),
            "cube Box.*: give Extent.*, in voxels; a Box, in mic",
        ),
        (lambda s: fractions(s, cubes=LEFT), "cubes Extent.*: give auto, or boxes"),
        (lambda s: fractions(s, cubes=[]), "cubes .*: give auto, or boxes"),
        (
            lambda s: fractions(s, cubes=[Extent((0, 0, 0), (21, 9, 9))]),
            "cube 0:21,0:9,0:9: it reaches outside of the volume 0:20,0:18,0:30, in voxels",
        ),
        (lambda s: fractions(s, cubes="all"), "cubes 'all': give auto, or boxes"),
        (lambda s: fractions(s, cubes=[LEFT, LEFT]), "overlap; a voxel counts once"),
        (lambda s: fractions(s, box=BOX, cubes=[Extent((17, 0, 0), (20, 9, 9))]), "outside of the"),
    ],
)
def test_wrong_ways_to_count_are_named(store, ask, says):
    with pytest.raises(RequestError, match=says):
        ask(store)


def test_without_tables_nothing_is_computed_before_it_is_asked_for(store):
    with raise_if_computes():
        volume = open_volume(store)
        answers = [
            histogram(volume, box=BOX),
            histogram(volume, box=BOX, by_plane=True),
            *fractions(volume, box=BOX, n_resamples=20).data_vars.values(),
            *fractions(volume, n_resamples=20, denominator="unclipped").data_vars.values(),
            *fractions(volume, n_resamples=20, cubes="auto").data_vars.values(),
            *summary(volume, box=BOX, n_resamples=20).data_vars.values(),
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


def test_regions_without_known_voxels_are_named_in_attributes(store):
    found = histogram(store)
    if found.chunks is None:
        assert found.attrs["no_known_voxels"] == ["D"]
        assert histogram(store, by_plane=True).attrs["no_known_voxels"] == ["D"]
        assert "no_known_voxels" not in histogram(store, "microstructure").attrs
    else:  # what is not counted yet is not known
        assert "no_known_voxels" not in found.attrs
    assert emptiness(found.compute()) == {"no_known_voxels": ["D"]}


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
    with pytest.raises(RequestError, match="not a volume"):
        histogram(np.zeros(3))
