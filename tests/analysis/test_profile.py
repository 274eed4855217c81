"""Profiles along an axis: each voxel in its bin, intervals over planes, reasons."""

import numpy as np
import pytest

from tests.assertions import box_mask, known_mask, new_store, raise_if_computes, read_voxels
from tests.strategies import source
from thc_dask import count, fractions, labels, profile, summary
from thc_dask.convert import write_store
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Box, Extent
from thc_dask.kernels.statistics import Resampling, bootstrap_summary
from thc_dask.output import long_table
from thc_dask.schemes import Label, Scheme

SHAPE, UM, ORIGIN = (20, 18, 30), (2.0, 0.5, 1.17), (1.0, 0.0, 0.0)
REGIONS = Scheme("r", "region", (Label(0, "none"), Label(3, "A"), Label(7, "B"), Label(9, "C")))
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(2, "cell"), Label(5, "axon")))
BOX = Box((3.0, 1.0, 4.0), (31.0, 8.0, 30.1))
STEPS = {"z": 9.0, "y": 1.2, "x": 7.0}
PLANES = [2, 3, 9, 12, 14, 15]

RNG = np.random.default_rng(6)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.choice([0, 3, 7], SHAPE).astype(np.uint8)
ROI[:, :5, :] = 9  # C is at the top along y, and nowhere else
ROI[:, 5:, :][ROI[:, 5:, :] == 9] = 0
MICRO = RNG.choice(STRUCTURES.codes, SHAPE).astype(np.uint8)
KNOWN = known_mask(SHAPE, [Extent((z, 0, 0), (z + 1, *SHAPE[1:])) for z in PLANES])


@pytest.fixture(params=["tables", "voxels"])
def store(request):
    url = new_store()
    write_store(source(IMAGE, UM, ORIGIN), url, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(ROI), url, "roi", REGIONS, planes=PLANES)
    labels(source(MICRO), url, "microstructure", STRUCTURES)
    if request.param == "tables":
        count(url)
    return url


@pytest.fixture(params=[None, BOX])
def box(request, store):
    if request.param is None:
        return None, np.ones(SHAPE, bool)
    return request.param, box_mask([read_voxels(store, f"0/{axis}") for axis in "zyx"], BOX)


def bin_of(along, inside):
    """Return the bin of each voxel, counted from the first voxel's face, as plain numpy has it."""
    axis = "zyx".index(along)
    centres = ORIGIN[axis] + UM[axis] * np.arange(SHAPE[axis])
    held = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    low = centres[held[0]] - UM[axis] / 2
    found = np.floor((centres - low) / STEPS[along] + 1e-9).astype(int)
    return np.moveaxis(np.broadcast_to(found, (*np.delete(SHAPE, axis), SHAPE[axis])), -1, axis)


@pytest.mark.parametrize("along", ["z", "y", "x"])
@pytest.mark.parametrize("denominator", ["known", "unclipped"])
def test_intensities_at_each_depth(store, box, along, denominator):
    where, inside = box
    found = profile(
        store, along, box=where, step_um=STEPS[along], denominator=denominator, n_resamples=20
    ).compute()
    mask = inside & KNOWN
    bins = bin_of(along, inside)
    assert found["mean"].dims == (along, "region")
    assert found.sizes[along] == bins[inside].max() + 1
    if denominator == "unclipped":
        mask = mask & (IMAGE > 0) & (IMAGE < 255)
    for b in range(found.sizes[along]):
        for name, code in (("A", 3), ("C", 9)):
            voxels = IMAGE[mask & (code == ROI) & (bins == b)]
            one = found.isel({along: b}).sel(region=name)
            assert int(one["n_vox"]) == len(voxels)
            if len(voxels):
                assert float(one["mean"]) == pytest.approx(voxels.mean())
                assert float(one["sd"]) == pytest.approx(voxels.std())
                assert float(one["p75"]) == np.percentile(voxels, 75, method="inverted_cdf")
            else:
                assert np.isnan(float(one["mean"]))
                assert str(one["note"].values).startswith("no known voxels")


@pytest.mark.parametrize("along", ["z", "y", "x"])
@pytest.mark.parametrize("denominator", ["known", "foreground", "unclipped"])
def test_fractions_at_each_depth(store, box, along, denominator):
    where, inside = box
    found = profile(
        store, along, of="microstructure", box=where, step_um=STEPS[along],
        denominator=denominator, n_resamples=20,
    ).compute()  # fmt: skip
    mask, bins = inside & KNOWN, bin_of(along, inside)
    if denominator == "unclipped":
        mask = mask & (IMAGE > 0) & (IMAGE < 255)
    if denominator == "foreground":
        mask = mask & (MICRO > 0)
    assert found["fraction"].dims == (along, "region", "structure")
    for b in range(found.sizes[along]):
        here = mask & (ROI == 3) & (bins == b)
        one = found.isel({along: b}).sel(region="A")
        assert int(one["n_vox"]) == here.sum()
        for structure, code in (("cell", 2), ("axon", 5)):
            n = (here & (code == MICRO)).sum()
            assert int(one["count"].sel(structure=structure)) == n
            if here.sum():
                assert float(one["fraction"].sel(structure=structure)) == n / here.sum()
    assert ("background" in found["structure"]) == (denominator != "foreground")


@pytest.mark.parametrize("along", ["z", "y"])
def test_one_bin_is_the_whole_region(store, along):
    """The same numbers and intervals as without depth."""
    options = {"n_resamples": 60, "seed": 4}
    found = profile(store, along, step_um=1000, **options).isel({along: 0}).compute()
    wanted = summary(store, **options).compute()
    for name in [n + e for n in wanted.attrs["measures"] for e in ("", "_low", "_high")]:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    found = profile(store, along, of="microstructure", step_um=1000, block=2, **options)
    wanted = fractions(store, block=2, **options).compute()
    for name in ("fraction", "low", "high", "count", "note"):
        np.testing.assert_array_equal(found[name].isel({along: 0}), wanted[name], err_msg=name)


def test_bins_are_where_they_say(store):
    found = profile(store, "x", box=BOX, step_um=7.0, n_resamples=0).compute()
    np.testing.assert_allclose(found["start_um"], 1.17 * 3.5 + 7 * np.arange(4))
    np.testing.assert_allclose(found["stop_um"][:-1], found["start_um"][1:])
    assert float(found["stop_um"][-1]) == pytest.approx(1.17 * 25.5)
    np.testing.assert_allclose(found["x"], (found["start_um"] + found["stop_um"]) / 2)
    assert found["x"].attrs["units"] == "micrometer"
    assert (found.attrs["along"], found.attrs["step_um"]) == ("x", 7.0)


def test_many_planes_are_drawn_in_blocks():
    """Tables of more than 64 units for each bin would not fit for a large volume."""
    shape = (130, 9, 9)
    image = RNG.integers(0, 256, shape, np.uint8)
    url = new_store()
    write_store(source(image), url, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(np.full(shape, 3, np.uint8)), url, "roi", REGIONS)
    found = profile(url, "y", step_um=5, n_resamples=50).compute()
    assert "blocks of 3 planes" in found.attrs["interval"]
    tables = [[np.bincount(image[z : z + 3, :5].ravel(), minlength=256)] for z in range(0, 130, 3)]
    wanted = bootstrap_summary(tables, how=Resampling(50))
    one = found.isel(y=0).sel(region="A")
    assert [float(one[n]) for n in ("mean", "mean_low", "mean_high")] == wanted[:, 0, 0].tolist()


def test_nothing_is_computed_early(store):
    with raise_if_computes():
        lazy = profile(store, "y", step_um=2, n_resamples=9)
        shares = profile(store, "x", of="microstructure", step_um=9, n_resamples=9)
    for found in (lazy, shares):
        assert found["n_vox"].chunks is not None
        done = found.compute()
        for name in found:
            assert found[name].shape == done[name].shape
            assert found[name].dtype == done[name].dtype


def test_long_tables(store):
    rows = long_table(profile(store, "z", step_um=20, n_resamples=9).compute())
    assert rows.columns.tolist() == [
        "z", "region", "measure", "value", "low", "high", "units", "note"
    ]  # fmt: skip
    rows = long_table(profile(store, "z", of="microstructure", step_um=20, n_resamples=9).compute())
    assert rows.columns.tolist() == [
        "z", "region", "structure", "fraction", "low", "high", "count", "note"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"along": "t"}, RequestError, "along 't': give z, y or x"),
        ({"along": "z", "step_um": 1.0}, RequestError, "step 1 um: along z a voxel is 2 um"),
        ({"step_um": float("nan")}, RequestError, "step nan um"),
        ({"by": "rio"}, MissingError, "no label set 'rio'; it has: microstructure, roi"),
        ({"of": "roi"}, RequestError, "both are label sets of regions"),
        ({"block": 0}, RequestError, "block 0"),
        ({"block": 1.5}, RequestError, "block 1.5"),
        ({"along": "z", "block": 0}, RequestError, "block 0"),
        ({"denominator": "foreground"}, RequestError, "give one of known, unclipped"),
    ],
)
def test_questions_that_make_no_sense(store, options, error, says):
    with pytest.raises(error, match=says):
        profile(store, **options)
