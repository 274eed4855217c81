"""Patches of a store against plain numpy: where they are, what they show, and what is refused."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import known_mask, new_store, raise_if_computes, read_files
from tests.kernels.test_windows import naive
from tests.strategies import extents, label_arrays, schemes, source
from thc_dask import cli, interpolate, labels, open_volume, patches
from thc_dask.convert import write_store
from thc_dask.errors import DataError, ExistsError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.schemes import Label, Scheme

SHAPE, UM, ORIGIN = (20, 40, 60), (5.0, 1.0, 2.0), (3.0, 0.0, 1.0)
REGIONS = Scheme(
    "r", "region",
    (Label(0, "none"), Label(2, "A"), Label(3, "B"), Label(5, "C"), Label(9, "tiny"),
     Label(11, "nowhere")),
)  # fmt: skip
KNOWN = [Extent((z, 2, 0), (z + 1, 40, 60)) for z in (1, 2, 6, 11, 12, 17)]
SIZE = (6, 3)  # of 6 um
MAIN = {"size_um": 6, "regions": ["A", "B", "C"], "test": 0.4, "margin_um": 20}

RNG = np.random.default_rng(8)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = np.zeros(SHAPE, np.uint8)
ROI[:, :, :20], ROI[:, :, 20:41], ROI[:12, 4:, 41:] = 2, 3, 5
ROI[:, 20:24, 30:32] = 9
ROI[:, 5, 5] = 0
MASK = known_mask(SHAPE, KNOWN)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("patches") / "v.ome.zarr")
    write_store(source(IMAGE, UM, ORIGIN), path, chunk=(4, 8, 8), shard=(8, 16, 16), levels=2)
    labels(source(ROI, UM, ORIGIN), path, "roi", REGIONS, extents=KNOWN)
    return path


def starts_of(found):
    return np.stack([found[name].values for name in ("plane", "y_vox", "x_vox")], axis=1)


def check(found, image, roi, mask, size, groups, margin_vox, n, n_test):
    """Check all that is promised, patch by patch, on whole arrays."""
    starts = starts_of(found)
    region, split = found["region"].values, found["split"].values
    voxels = found["image"].values
    assert voxels.dtype == image.dtype
    for i, (z, y, x) in enumerate(starts):
        window = (z, slice(y, y + size[0]), slice(x, x + size[1]))
        assert mask[window].shape == size  # all of it lies in the volume
        assert mask[window].all()
        assert set(np.unique(roi[window])) <= set(groups[region[i]])
        np.testing.assert_array_equal(voxels[i], image[window])
    for (z, y, x), (v, u, t) in combinations(starts.tolist(), 2):
        assert z == v or abs(z - v) >= margin_vox
        assert z != v or abs(y - u) >= size[0] or abs(x - t) >= size[1]
    for name in groups:
        assert (region == name).sum() == n
        assert ((region == name) & (split == "test")).sum() == n_test
    planes = {part: set(starts[split == part, 0].tolist()) for part in ("train", "test")}
    assert not planes["train"] & planes["test"]


GROUPS = {"A": [2], "B": [3], "C": [5]}


def test_all_that_is_promised(store):
    found = patches(store, **MAIN, n_per_region=10)
    check(found, IMAGE, ROI, MASK, SIZE, GROUPS, 4, 10, 4)
    assert found["image"].dims == ("patch", "y", "x")
    assert found["patch"].values.tolist() == list(range(30))
    np.testing.assert_allclose(found["y"], [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(found["x"], [-2, 0, 2])
    z, y, x = starts_of(found).T
    np.testing.assert_allclose(found["z_um"], 3 + 5.0 * z)
    np.testing.assert_allclose(found["y_um"], y + 2.5)
    np.testing.assert_allclose(found["x_um"], 1 + 2.0 * x + 2)
    assert found["annotated"].values.all()
    # C ends before plane 12: it has train and test patches all the same.
    assert set(found["plane"].values.tolist()) <= {1, 2, 6, 11, 12, 17}
    # Numbers tell nothing: regions and parts do not come one after the other.
    for name in ("region", "split", "plane"):
        assert (found[name].values[1:] != found[name].values[:-1]).sum() > 5


def test_a_merged_region_is_crossed(store):
    merge = {"AB": ["A", "B"]}
    found = patches(store, **MAIN | {"regions": ["AB", "C"]}, merge=merge, n_per_region=40)
    check(found, IMAGE, ROI, MASK, SIZE, {"AB": [2, 3], "C": [5]}, 4, 40, 16)
    x = found["x_vox"].values
    assert ((x < 20) & (x + SIZE[1] > 20)).any()
    assert found.attrs["merge"] == {"AB": ["A", "B"]}


def test_as_many_as_the_smallest_region_has(store):
    found = patches(store, **MAIN)
    n = found.attrs["n_per_region"]
    check(found, IMAGE, ROI, MASK, SIZE, GROUPS, 4, n, round(n * 0.4))
    with pytest.raises(RequestError, match=rf"-n {n}[;,]"):
        patches(store, **MAIN, n_per_region=n + 1)
    assert patches(store, **MAIN, n_per_region=n).sizes["patch"] == 3 * n


def test_no_split(store):
    found = patches(store, **MAIN | {"test": 0}, n_per_region=9)
    check(found, IMAGE, ROI, MASK, SIZE, GROUPS, 4, 9, 0)
    assert set(found["split"].values) == {"train"}


def test_regions_that_occur_are_the_default(store):
    found = patches(store, size_um=2, test=0, margin_um=0)
    assert sorted(set(found["region"].values)) == ["A", "B", "C", "tiny"]
    assert found.attrs["regions"] == ["A", "B", "C", "tiny"]


def test_without_a_margin_every_plane_counts(store):
    found = patches(store, **MAIN | {"margin_um": 0}, n_per_region=20)
    check(found, IMAGE, ROI, MASK, SIZE, GROUPS, 1, 20, 8)
    assert found.attrs["n_planes"] == 6
    assert patches(store, **MAIN).attrs["n_planes"] == 4  # 1 or 2, 6, 11 or 12, 17


@pytest.mark.parametrize("level", [0, 1])
def test_every_level(store, level):
    tree = open_volume(store)
    image = tree[f"{level}/image"].values
    roi = tree[f"labels/roi/{level}/roi"].values
    mask = known_mask(image.shape, [e.level(level) for e in KNOWN])
    size = (6, 3) if level == 0 else (3, 2)  # 6 um: of 2 and 4 um voxels 3 and 1.5
    found = patches(store, **MAIN, n_per_region=6, level=level)
    check(found, image, roi, mask, size, GROUPS, (4, 2)[level], 6, 2)
    grid = tree[str(level)].to_dataset()
    z, x = found["plane"].values, found["x_vox"].values
    np.testing.assert_allclose(found["z_um"], grid["z"].values[z])
    middle = (grid["x"].values[x] + grid["x"].values[x + size[1] - 1]) / 2
    np.testing.assert_allclose(found["x_um"], middle)


@st.composite
def worlds(draw):
    """A label set, what is known of it, and what is asked for."""
    shape = draw(st.tuples(st.integers(2, 9), st.integers(2, 14), st.integers(2, 14)))
    scheme = draw(schemes())
    roi = draw(label_arrays(shape, scheme))
    known = draw(st.lists(extents(shape), min_size=1, max_size=3))
    asked = {
        "size_um": draw(st.integers(1, 4)), "n_per_region": draw(st.none() | st.integers(2, 4)),
        "test": draw(st.sampled_from([0, 0.3, 0.5])), "margin_um": draw(st.integers(0, 3)),
        "seed": draw(st.integers(0, 9)),
    }  # fmt: skip
    return scheme, roi, known, asked


def asked_of(path, asked):
    """Return patches, or why there are none."""
    try:
        return patches(path, **asked), ""
    except RequestError as error:
        return None, str(error)


@given(worlds())
@settings(max_examples=60)
def test_either_all_holds_or_it_says_why_not(world):
    scheme, roi, known, asked = world
    image = np.random.default_rng(1).integers(0, 256, roi.shape, np.uint8)
    path = new_store()
    write_store(source(image), path, chunk=(2, 4, 4), shard=(4, 8, 8), levels=1)
    labels(source(roi), path, "roi", scheme, extents=known)
    mask = known_mask(roi.shape, known)
    side = asked["size_um"]
    numbers = np.where(mask, roi, 0).astype(roi.dtype)
    there = set(np.unique(numbers).tolist()) - {0}
    fits = {int(w) for plane in numbers for w in np.unique(naive(plane, (side, side)))} - {0}
    found, why = asked_of(path, asked)
    if found is None:
        if asked["test"] and mask.any(axis=(1, 2)).sum() == 1:
            assert why.startswith("train and test cannot lie apart: there is one plane only")
        elif asked["margin_um"] <= 1 and there and fits != there:
            said = why.partition("inside ")[2].partition(";")[0]
            left_out = [scheme[str(code)].name for code in sorted(there - fits)]
            assert said == ("any region" if not fits else ", ".join(left_out))
        elif asked["margin_um"] <= 1 and there and not asked["test"]:
            assert asked["n_per_region"] is not None  # else there is nothing to refuse
        return
    n = found.attrs["n_per_region"]
    groups = {r: [scheme[r].code] for r in found.attrs["regions"]}
    # What is left out does not occur on the planes that were looked at, all of them at margin 0.
    if asked["margin_um"] <= 1:
        assert there == fits == {scheme[r].code for r in groups}
    n_test = 0 if not asked["test"] else min(max(1, int(n * asked["test"] + 0.5)), n - 1)
    check(found, image, roi, mask, (side, side), groups, max(1, asked["margin_um"]), n, n_test)
    assert asked["n_per_region"] in (None, n)


# ---- what is drawn, and when it is computed ------------------------------------------------


def test_a_key_does_not_take_the_place_of_patches(store, tmp_path):
    out = tmp_path / "p.zarr"
    with pytest.raises(RequestError, match="named twice; give each file a name of its own"):
        patches(store, size_um=10, n_per_region=1, test=0, out=out, key=tmp_path / "x/../p.zarr")
    assert not out.exists()


def test_the_seed_decides(store):
    one, again, other = (
        patches(store, **MAIN, n_per_region=8, seed=s).compute() for s in (1, 1, 2)
    )
    xr.testing.assert_identical(one, again)
    assert not np.array_equal(starts_of(one), starts_of(other))


def test_building_computes_nothing(store):
    with raise_if_computes():
        found = patches(store, **MAIN, n_per_region=8)
        with pytest.raises(AssertionError, match="something was computed"):
            found.compute()
    assert found["image"].chunks is not None
    check(found, IMAGE, ROI, MASK, SIZE, GROUPS, 4, 8, 3)


def test_every_executor_gives_the_same_bytes(store, executor, tmp_path):
    found = patches(store, **MAIN, n_per_region=8, out=tmp_path / "p.zarr")
    files = read_files(str(tmp_path / "p.zarr"))
    import dask

    with dask.config.set(scheduler="synchronous"):
        patches(store, **MAIN, n_per_region=8, out=tmp_path / "q.zarr")
    assert files == read_files(str(tmp_path / "q.zarr"))
    np.testing.assert_array_equal(found["image"].values, xr.open_zarr(tmp_path / "p.zarr")["image"])


def test_only_what_is_needed_is_read(store, tmp_path):
    """Shards without a patch, and labels that are known nowhere near, may be broken."""
    import shutil
    from pathlib import Path

    copy = Path(shutil.copytree(store, tmp_path / "v.ome.zarr"))
    asked = {**MAIN, "n_per_region": 2, "regions": ["A"]}
    found = patches(str(copy), **asked)
    before = found.compute()
    z, y, x = starts_of(found).T
    shards = {
        (a // 8, b // 16, c // 16)
        for i in range(len(z)) for a in [z[i]] for b in (y[i], y[i] + SIZE[0] - 1)
        for c in (x[i], x[i] + SIZE[1] - 1)
    }  # fmt: skip
    broken = 0
    for file in copy.glob("0/image/c/*/*/*"):
        if tuple(map(int, file.parts[-3:])) not in shards:
            file.write_bytes(b"broken")
            broken += 1
    assert broken > 10
    xr.testing.assert_identical(patches(str(copy), **asked).compute(), before)
    for file in copy.glob("0/image/c/*/*/*"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="damaged"):
        patches(str(copy), **asked).compute()


# ---- files ---------------------------------------------------------------------------------


def test_written_patches_are_those_returned(store, tmp_path):
    out = tmp_path / "p.zarr"
    seen = []
    found = patches(
        store, **MAIN, n_per_region=8, out=out, progress=lambda *n: seen.append(n)
    )  # fmt: skip
    assert seen[-1][0] == seen[-1][1]
    opened = xr.open_zarr(out)
    assert opened["image"].dims == ("patch", "y", "x")
    xr.testing.assert_equal(opened.compute(), found.compute())
    expected = {
        "store": store, "level": 0, "by": "roi", "size_um": 6.0, "size_vox": [6, 3],
        "n_per_region": 8, "test": 0.4, "margin_um": 20.0, "seed": 0, "regions": ["A", "B", "C"],
    }  # fmt: skip
    assert expected.items() <= opened.attrs.items()
    assert opened.attrs["software"].startswith("thc_dask ")
    assert set(opened.attrs["digests"]) == {"roi", "image"}
    key = pd.read_csv(tmp_path / "p_key.csv")
    assert list(key) == [
        "patch", "region", "split", "z_um", "y_um", "x_um", "plane", "y_vox", "x_vox", "annotated",
    ]  # fmt: skip
    for column in key:
        assert key[column].tolist() == found[column].values.tolist()


def test_black_patches_are_written_too(tmp_path):
    image, roi = np.zeros((2, 16, 16), np.uint16), np.full((2, 16, 16), 2, np.uint8)
    path = new_store()
    write_store(source(image), path, levels=1)
    labels(source(roi), path, "roi", REGIONS)
    patches(path, size_um=4, test=0, n_per_region=3, out=tmp_path / "p.zarr")
    opened = xr.open_zarr(tmp_path / "p.zarr")["image"]
    assert (opened.dtype, opened.shape, int(opened.sum())) == (np.uint16, (3, 4, 4), 0)


def test_what_breaks_off_leaves_what_was_there(store, tmp_path):
    import shutil

    copy = shutil.copytree(store, tmp_path / "v.ome.zarr")
    out = tmp_path / "out" / "p.zarr"
    patches(str(copy), **MAIN, n_per_region=8, out=out)
    before = read_files(str(out))
    for file in copy.glob("0/image/c/*/*/*"):
        file.write_bytes(b"broken")
    for target in (out, tmp_path / "new" / "p.zarr"):
        with pytest.raises(DataError, match="damaged"):
            patches(str(copy), **MAIN, n_per_region=8, out=target)
    assert read_files(str(out)) == before
    assert [p.name for p in (tmp_path / "new").iterdir()] == []
    assert sorted(p.name for p in out.parent.iterdir()) == ["p.zarr", "p_key.csv"]
    # And where all is well, what was there is replaced.
    patches(store, **MAIN, n_per_region=6, out=out)
    assert xr.open_zarr(out).sizes["patch"] == 18


def test_a_store_that_changes_meanwhile_gives_nothing(tmp_path):
    path = new_store()
    write_store(source(IMAGE, UM), path, levels=1)
    labels(source(ROI, UM), path, "roi", REGIONS)

    def change(done, total):
        labels(source(ROI[::-1].copy(), UM), path, "roi", REGIONS, overwrite=True)

    asked = {"size_um": 6, "regions": "A,B", "n_per_region": 4}
    with pytest.raises(RequestError, match="was changed while patches of it were written"):
        patches(path, **asked, out=tmp_path / "p.zarr", progress=change)
    assert list(tmp_path.iterdir()) == []
    patches(path, **asked, out=tmp_path / "p.zarr")
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_else_is_replaced(store, tmp_path):
    (tmp_path / "mine.zarr").mkdir()
    for out in (store, tmp_path / "mine.zarr"):
        with pytest.raises((ExistsError, RequestError), match=r"something else|go to"):
            patches(store, **MAIN, out=out)
    assert read_files(str(tmp_path / "mine.zarr")) == {}


def test_interpolated_labels_say_so(tmp_path):
    path = new_store()
    write_store(source(IMAGE, UM), path, levels=1)
    planes = [2, 10, 18]
    labels(source(ROI, UM), path, "roi", REGIONS, planes=planes)
    interpolate(path, "roi", into="filled")
    found = patches(path, "filled", size_um=6, regions=["A", "B"], n_per_region=30, margin_um=0)
    assert "interpolated from roi" in found.attrs["interpolated"]["filled"]
    drawn = found["annotated"].values
    assert drawn.any()
    assert not drawn.all()
    np.testing.assert_array_equal(drawn, np.isin(found["plane"].values, planes))
    assert "interpolated" not in patches(path, size_um=6, regions="A,B", test=0).attrs


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"by": "rio"}, MissingError, "no label set 'rio'; it has: roi"),
        ({"regions": ["A", "Z"]}, MissingError, "'Z'.*known: A, B, C, tiny, nowhere"),
        ({"regions": ["A", "A"]}, RequestError, "each once"),
        ({"regions": []}, RequestError, "each once"),
        ({"regions": ["none"]}, MissingError, "known: A, B"),
        ({"merge": "X=A,Z"}, MissingError, "'Z'.*known: none, A, B"),
        ({"merge": "AB"}, RequestError, "VP=TRN,VP"),
        ({"regions": ["nowhere"]}, RequestError, "no voxel of nowhere.*on the 4 planes.*z = .* to"),
        ({"regions": ["A", "nowhere"]}, RequestError, "no voxel of nowhere.*leave it out"),
        ({"regions": ["A", "tiny"]}, RequestError,
         "wholly inside tiny;.*A 6 um, tiny 4 um; give --size 4um, which fits all.*--regions A"),
        ({"size_um": 150}, RequestError, "any region.*A 34 um, B 20 um, C 36 um"),
        ({"size_um": 1}, RequestError, "a voxel of level 0 is 2 um"),
        ({"size_um": float("nan")}, RequestError, "give that or more"),
        ({"level": 2}, RequestError, "has levels 0 to 1"),
        ({"level": -1}, RequestError, "has levels 0 to 1"),
        ({"test": 1}, RequestError, "below 1"),
        ({"test": -0.1}, RequestError, "below 1"),
        ({"margin_um": -1}, RequestError, "0 or more"),
        ({"seed": -1}, RequestError, "at least 0"),
        ({"n_per_region": 1}, RequestError, "2 or more.*--test 0"),
        ({"n_per_region": 0, "test": 0}, RequestError, "1 or more"),
        ({"n_per_region": 10_000}, RequestError,
         r"A, B, C: fewer than 10000 patches of 6 um.*A \d+, B \d+, C \d+; -n \d+ is the most"),
        ({"margin_um": 300}, RequestError, "one plane only, z = .* um.*--test 0"),
        ({"margin_um": 60, "regions": ["A", "C"]}, RequestError, "C has patches on one plane only"),
        ({"out": "p.csv"}, RequestError, "to a folder .zarr"),
        ({"out": "p"}, RequestError, "unknown format"),
        ({"key": "key.txt"}, RequestError, "unknown format"),
    ],
)  # fmt: skip
def test_what_cannot_be_had(store, options, error, words):
    with pytest.raises(error, match=words):
        patches(store, **MAIN | options)


def test_largest_sizes_do_fit_and_larger_ones_do_not(store):
    """What the message names can be had."""
    with pytest.raises(RequestError) as caught:
        patches(store, **MAIN | {"size_um": 150, "test": 0})
    text = str(caught.value).partition("that size: ")[2].partition(";")[0]
    for part in text.split(", "):
        name, um, _ = part.split()
        asked = {"regions": [name], "test": 0, "margin_um": 20}
        assert patches(store, size_um=float(um), **asked).sizes["patch"] >= 1
        with pytest.raises(RequestError, match="wholly inside"):
            patches(store, size_um=float(um) + 1, **asked)


def test_a_split_that_leaves_a_region_too_few(store):
    asked = MAIN | {"test": 0.9}
    n = patches(store, **asked).attrs["n_per_region"]
    words = rf"{n + 1} patches of each.*cannot be divided with --test 0.9.*the most is -n {n};"
    with pytest.raises(RequestError, match=words):
        patches(store, **asked, n_per_region=n + 1)


def test_labels_that_are_known_nowhere_near(store, tmp_path):
    path = new_store()
    write_store(source(IMAGE, UM), path, levels=1)
    labels(source(ROI, UM), path, "roi", REGIONS, planes=[13])
    with pytest.raises(RequestError, match="one plane only"):
        patches(path, size_um=6, regions="A,B")
    assert patches(path, size_um=6, regions="A,B", test=0, n_per_region=2).sizes["patch"] == 4


# ---- the command ---------------------------------------------------------------------------


def thc(capsys, *arguments):
    code = cli.run(["patches", *map(str, arguments)])
    return code, capsys.readouterr()


def test_the_command_is_the_function(store, tmp_path, capsys):
    out = tmp_path / "p.zarr"
    code, said = thc(
        capsys, store, "--size", "6um", "-n", 8, "--regions", "A,B,C", "--test", 0.4, "--margin",
        "20um", "--seed", 3, "-o", out, "--key", tmp_path / "k.json", "--json",
    )  # fmt: skip
    assert code == 0
    facts = json.loads(said.out)
    assert (facts["patches"], facts["train"], facts["test"]) == (24, 15, 9)
    assert facts["written"] == [str(out), str(tmp_path / "k.json")]
    found = patches(store, **MAIN, n_per_region=8, seed=3)
    xr.testing.assert_equal(xr.open_zarr(out).compute(), found.compute())
    key = json.loads((tmp_path / "k.json").read_text())
    assert key["attrs"]["seed"] == 3
    assert [row["region"] for row in key["rows"]] == found["region"].values.tolist()


def test_without_files_the_key_is_printed(store, capsys):
    asked = (store, "--size", 6, "--merge", "AB=A,B", "--regions", "AB,C", "-n", 4)
    code, said = thc(capsys, *asked)
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0].split()[:4] == ["patch", "region", "split", "z_um"]
    assert len(lines) == 9
    code, said = thc(capsys, *asked, "--json")
    assert {row["region"] for row in json.loads(said.out)["rows"]} == {"AB", "C"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--size 6m", "'6m' is no length; write it like 150um"),
        ("--size 1um,2um,3um", "is no length"),
        ("--size 150um", "--size 4um, which fits all"),
        ("--regions A,Z", "known: A, B"),
        ("--merge A", "VP=TRN,VP"),
        ("--sheet s.gif", "must end in .png"),
        ("--sheet nowhere/s.png", "does not exist; create it"),
        ("--test 0 --examples e.png", "--test above 0"),
        ("--test 0 --classify s.csv", "--test above 0"),
        ("--classify s.txt", "unknown format"),
    ],
)
def test_one_line_for_what_is_wrong(store, capsys, monkeypatch, tmp_path, options, words):
    monkeypatch.chdir(tmp_path)
    try:
        code, said = thc(capsys, store, *options.split())
    except SystemExit as end:
        code, said = end.code, capsys.readouterr()
    assert code == 2
    [line] = [line for line in said.err.splitlines() if "parts/s" not in line]
    assert line.startswith("thc patches: ")
    assert words in line
    assert list(tmp_path.iterdir()) == []
