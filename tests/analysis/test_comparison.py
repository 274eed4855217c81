"""How far regions are apart: numbers of scipy, intervals and tests over planes, reasons."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from tests.assertions import joint_counts, known_mask, raise_if_computes
from tests.strategies import source
from thc_dask import compare, count, fractions, labels
from thc_dask.convert import write_store
from thc_dask.errors import MissingError, RequestError
from thc_dask.figures import panels
from thc_dask.grid import Box, Extent
from thc_dask.kernels.statistics import INTENSITY, corrected, intervals, shares_of, wasserstein
from thc_dask.kernels.statistics.resampling import Resampling
from thc_dask.output import long_table
from thc_dask.schemes import Label, Scheme

SHAPE = (20, 18, 30)
REGIONS = Scheme(
    "r", "region", (Label(0, "none"), Label(3, "A"), Label(7, "B"), Label(9, "C"), Label(11, "D"))
)
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(2, "cell"), Label(5, "axon")))
BOX = Box((3.0, 1.0, 4.0), (16.0, 15.0, 27.0))
PLANES = [2, 3, 5, 7, 9, 12, 14, 15]
DRAWS = {"n_resamples": 60, "n_permutations": 300}

RNG = np.random.default_rng(6)
ROI = RNG.choice([0, 3, 7, 9], SHAPE).astype(np.uint8)  # nothing is ever D
# B is brighter than A, more on some planes than on others
IMAGE = (RNG.integers(20, 200, SHAPE) + (ROI == 7) * np.arange(30, 50)[:, None, None]).astype(
    np.uint8
)
MICRO = np.where(RNG.random(SHAPE) < 0.1 + 0.05 * (ROI == 9), 2, RNG.choice([0, 5], SHAPE))
MASK = known_mask(SHAPE, [Extent((z, 0, 0), (z + 1, *SHAPE[1:])) for z in PLANES])


def make(url, tables):
    write_store(source(IMAGE), url, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(ROI), url, "roi", REGIONS, planes=PLANES)
    labels(source(MICRO.astype(np.uint8)), url, "microstructure", STRUCTURES)
    if tables:
        count(url)
    return url


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("counted") / "v.ome.zarr"), True)


@pytest.fixture(scope="module")
def uncounted(tmp_path_factory):
    return make(str(tmp_path_factory.mktemp("uncounted") / "v.ome.zarr"), False)


@pytest.fixture(scope="module")
def found(counted):
    return compare(counted, **DRAWS)


def voxels(code, mask=MASK):
    return IMAGE[mask & (code == ROI)]


def test_distances_are_scipys_of_the_voxels(found):
    assert found["region"].values.tolist() == ["A", "B", "C", "D"]
    for (i, a), (j, b) in itertools.product(enumerate((3, 7, 9)), repeat=2):
        one = {name: float(found[name][i, j]) for name in found.attrs["measures"]}
        x, y = voxels(a), voxels(b)
        p, q = (np.bincount(v, minlength=256) for v in (x, y))
        close = {"rel": 1e-9, "abs": 1e-12}
        assert one["kl"] == pytest.approx(stats.entropy(p + 1e-6, q + 1e-6), **close)
        assert one["js"] == pytest.approx(jensenshannon(p, q) ** 2, **close)
        assert one["wasserstein"] == pytest.approx(stats.wasserstein_distance(x, y), **close)
        u = stats.mannwhitneyu(x, y, method="asymptotic").statistic
        assert one["cliffs_delta"] == pytest.approx(2 * u / (len(x) * len(y)) - 1, **close)
        assert one["mean_difference"] == pytest.approx(x.mean() - y.mean(), **close)
        assert one["total_variation"] == pytest.approx(abs(p / p.sum() - q / q.sum()).sum() / 2)
    assert found["n_vox"].values.tolist() == [len(voxels(c)) for c in (3, 7, 9, 11)]


def test_every_distance_has_an_interval(found):
    for name in found.attrs["measures"]:
        low, value, high = (found[f"{name}{e}"].values[:3, :3] for e in ("_low", "", "_high"))
        assert np.all((low <= value) & (value <= high)), name
    for name in ("cliffs_delta", "mean_difference"):  # what is above 0 one way is below the other
        np.testing.assert_array_equal(found[f"{name}_low"], -found[f"{name}_high"].values.T)


def test_intervals_draw_planes_that_both_regions_share(found):
    tables = np.stack([
        joint_counts(ROI, IMAGE, REGIONS.codes, range(256), MASK & known_mask(
            SHAPE, [Extent((z, 0, 0), (z + 1, *SHAPE[1:]))]))[0] for z in PLANES
    ])  # fmt: skip

    def distance(h):
        p, q = np.moveaxis(shares_of(h), -2, 0)
        return wasserstein(p, q)[..., None]

    kind = INTENSITY["wasserstein"].distance
    low, high = intervals(distance, tables[:, [1, 3]], None, Resampling(60), [kind])
    one = found.sel(region="A", other="C")
    assert (float(one["wasserstein_low"]), float(one["wasserstein_high"])) == (low[0], high[0])


def test_tests_deal_out_planes(found):
    """Eight planes hold both regions: all 256 ways to swap them are tried."""
    one = found.sel(region="A", other="B")
    assert str(one["test"].values) == "8 pairs swapped, all 256 ways"
    assert float(one["wasserstein_p"]) == 2 / 256
    p = found["wasserstein_p"].values
    upper = np.triu_indices(4, 1)
    for name, method in (("wasserstein_p_holm", "holm"), ("wasserstein_p_bh", "bh")):
        np.testing.assert_array_equal(found[name].values[upper], corrected(p[upper], method))
    np.testing.assert_array_equal(p, p.T)
    assert float(found["wasserstein_p"].sel(region="A", other="C")) > 0.05


def test_composition(counted):
    found = compare(counted, of="microstructure", **DRAWS)
    shares = fractions(counted)["fraction"].values[1:4]
    names = ["background", "cell", "axon"]
    for i, j in itertools.product(range(3), repeat=2):
        p, q = shares[i], shares[j]
        assert float(found["js"][i, j]) == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)
        cosine = 1 - p[1:] @ q[1:] / np.sqrt((p[1:] @ p[1:]) * (q[1:] @ q[1:]))
        assert float(found["cosine"][i, j]) == pytest.approx(cosine, abs=1e-12)
        h = 2 * (np.arcsin(np.sqrt(p)) - np.arcsin(np.sqrt(q)))
        np.testing.assert_allclose(found["cohen_h"].values[i, j], h, atol=1e-12)
        np.testing.assert_allclose(found["difference"].values[i, j], p - q, atol=1e-12)
    assert found["structure"].values.tolist() == names
    one = found.sel(region="A", other="C", structure="cell")
    assert float(one["difference_high"]) < 0
    assert float(one["difference_p"]) < 0.05
    assert found["difference_p_holm"].dims == ("region", "other", "structure")
    upper = np.triu_indices(4, 1)
    np.testing.assert_array_equal(
        found["difference_p_bh"].values[upper], corrected(found["difference_p"].values[upper], "bh")
    )
    own = compare(counted, of="microstructure", denominator="foreground", **DRAWS)
    assert own["structure"].values.tolist() == names[1:]
    np.testing.assert_allclose(own["cosine"], found["cosine"], atol=1e-12)


def test_what_is_missing_says_why(counted, found):
    assert np.isnan(found["js"].sel(region="D")).all()
    assert np.isnan(found["js"].sel(other="D")).all()
    assert set(found["note"].sel(region="D").values) == {"no known voxels"}
    assert set(found["note"].values[:3, :3].ravel()) == {""}
    one = compare(counted, box=Box((3, 0, 0), (4, 99, 99)), **DRAWS).compute()
    assert np.isfinite(one["js"][:3, :3]).all()
    assert np.isnan(one["js_low"].sel(region="A", other="B"))
    assert str(one["note"].sel(region="A", other="B").values) == "one plane only: no interval"
    assert str(one["test"].sel(region="A", other="B").values).startswith("no test: fewer than two")


def test_tables_and_voxels_agree_and_nothing_is_computed_early(counted, uncounted):
    for options in (
        {}, {"box": BOX}, {"of": "microstructure"}, {"denominator": "unclipped"},
        {"of": "microstructure", "denominator": "unclipped"}, {"cubes": "auto", "box": BOX},
    ):  # fmt: skip
        with raise_if_computes():
            lazy = compare(uncounted, **options, **DRAWS)
        assert lazy["js"].chunks is not None
        wanted, got = compare(counted, **options, **DRAWS).compute(), lazy.compute()
        for name in wanted:
            assert lazy[name].shape == got[name].shape
            assert lazy[name].dtype == got[name].dtype
            np.testing.assert_array_equal(got[name], wanted[name], err_msg=f"{options} {name}")


def test_without_draws_a_box_needs_no_planes(counted):
    """Whole chunks then come from the table of chunks."""
    box = Box((0, 0, 0), (8, 16, 16))
    quick = compare(counted, box=box, n_resamples=0, n_permutations=0)
    assert quick.attrs["answered_from"] == "chunk table"
    assert quick.attrs["interval"] == "none"
    drawn = compare(counted, box=box, **DRAWS)
    for name in quick.attrs["measures"]:
        np.testing.assert_array_equal(quick[name], drawn[name])
    assert np.isnan(quick["js_low"].values[0, 1])
    assert set(quick["note"].values[:3, :3].ravel()) == {""}


def test_the_same_seed_gives_the_same(counted, found):
    again = compare(counted, **DRAWS)
    for name in found:
        np.testing.assert_array_equal(again[name], found[name])
    other = compare(counted, seed=1, **DRAWS)
    assert not np.array_equal(other["js_low"], found["js_low"], equal_nan=True)
    np.testing.assert_array_equal(other["js"], found["js"])


def test_what_was_done_is_recorded(counted, found):
    attrs = found.attrs
    assert attrs["store"] == counted
    assert (attrs["level"], attrs["by"], attrs["seed"], attrs["n_resamples"]) == (0, "roi", 0, 60)
    assert (attrs["n_permutations"], attrs["smoothing"]) == (300, 1e-6)
    assert attrs["denominator"] == "all known voxels of the region"
    assert attrs["interval"] == (
        "95% bootstrap over planes, BCa where defined; of distances, percentiles without the bias"
    )
    assert attrs["speaks_of"] == "other planes of this specimen, not other specimens"
    assert attrs["software"].startswith("thc_dask ")


def test_a_long_table_has_a_row_for_each_measure(counted, found):
    rows = long_table(found)
    assert rows.columns.tolist() == [
        "region", "other", "measure", "value", "low", "high", "p", "p_holm", "p_bh", "units",
        "test", "note",
    ]  # fmt: skip
    assert len(rows) == 8 * 4 * 4
    one = rows.query("region == 'B' and other == 'A' and measure == 'wasserstein'").iloc[0]
    assert one["value"] == float(found["wasserstein"].sel(region="B", other="A"))
    assert one["p_bh"] == float(found["wasserstein_p_bh"].sel(region="B", other="A"))
    assert (one["units"], one["note"]) == ("grey levels", "")
    assert one["test"] == str(found["test"].sel(region="B", other="A").item()) != ""
    assert rows.query("measure == 'js'")["p"].isna().all()
    assert set(rows.query("measure == 'js'")["test"]) == {""}
    rows = long_table(compare(counted, of="microstructure", **DRAWS))
    assert rows.columns.tolist()[:4] == ["region", "other", "structure", "measure"]
    assert len(rows) == (5 + 2 * 3) * 4 * 4
    assert set(rows.query("measure == 'js'")["structure"]) == {""}
    assert set(rows.query("measure == 'cohen_h'")["structure"]) == {"background", "cell", "axon"}


def test_one_region_is_compared_with_nothing(tmp_path):
    url = str(tmp_path / "v.ome.zarr")
    write_store(source(IMAGE), url)
    alone = Scheme("s", "region", (Label(0, "none"), Label(3, "A")))
    labels(source(np.full(SHAPE, 3, np.uint8)), url, "roi", alone)
    says = "'roi': it has one region besides none, .*: there is none, add one with thc labels"
    with pytest.raises(RequestError, match=says):
        compare(url)
    assert "".join(panel.letter for panel in panels(url)) == "AB"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"by": "rio"}, MissingError, "no label set 'rio'; it has: microstructure, roi"),
        ({"smoothing": -1}, RequestError, "smoothing -1"),
        ({"measures": ["jss"]}, RequestError, "measure 'jss': give some of kl, js"),
        ({"measures": ["cohen_h"]}, RequestError, "measure 'cohen_h': give some of"),
        ({"n_permutations": -2}, RequestError, "n_permutations -2"),
        ({"n_permutations": 9.5}, RequestError, "n_permutations 9.5"),
        (
            {"of": "roi"},
            RequestError,
            "^'roi' by 'roi': both are label sets of regions; give a set",
        ),
        ({"measures": []}, RequestError, "give some of kl, js, .*; None gives all"),
        (
            {"by": "image"},
            RequestError,
            "by 'image': all voxels are one region, .* has more: microstructure, roi$",
        ),
        ({"denominator": "foreground"}, RequestError, "give one of known, unclipped"),
    ],
)
def test_questions_that_make_no_sense(counted, options, error, says):
    with pytest.raises(error, match=says):
        compare(counted, **options)
