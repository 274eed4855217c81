import itertools
import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import (
    between_planes,
    known_mask,
    mode_pyramid,
    new_store,
    read_files,
    read_voxels,
)
from tests.strategies import extents, label_arrays, schemes, source, volumes
from thc_dask import (
    cli,
    compare,
    convert,
    count,
    fractions,
    histogram,
    interpolate,
    labels,
    profile,
    report,
    summary,
)
from thc_dask.errors import ExistsError, MissingError, RequestError
from thc_dask.filling import TILE
from thc_dask.grid import Extent
from thc_dask.info import info
from thc_dask.interpolate import describe, leave_one_out, write_interpolated
from thc_dask.labels import write_labels
from thc_dask.reader import read
from thc_dask.schemes import Label, Scheme
from thc_dask.sources.phantom import Phantom
from thc_dask.store.read import Store
from thc_dask.verify import verify

TWO = Scheme("two", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b")))
SMALL = {"levels": 3, "chunk": (8, 8, 8), "shard": (16, 16, 16)}
PHANTOM = (24, 64, 96)
PLANES = [3, 9, 10, 17, 21]


def plane(z, shape):
    return Extent((z, 0, 0), (z + 1, *shape[1:]))


def filled(codes, known, spacing=(1.0, 1.0)):
    """Return labels between known planes column by column, and what is known then; plain numpy."""
    numbers = np.where(known, codes.astype(np.int64) + 1, 0)
    out, all_known = np.where(known, codes, 0), known.copy()
    spans = {}
    for y, x in np.argwhere(known.any(axis=0)):
        at = np.flatnonzero(known[:, y, x])
        for a, b in itertools.pairwise(at):
            if b - a > 1:
                spans.setdefault((a, b), np.zeros(known.shape[1:], bool))[y, x] = True
    for (a, b), area in spans.items():
        found = between_planes(numbers[a], numbers[b], b - a, spacing)
        lost = area & (found[0] == 0)
        for y, x in {(y // TILE, x // TILE) for y, x in np.argwhere(lost).tolist()}:
            area[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = False
        out[a + 1 : b] = np.where(area, found - 1, out[a + 1 : b])
        all_known[a + 1 : b] |= area
    return out, all_known


@settings(max_examples=15)
@given(st.data())
def test_a_filled_set_equals_the_naive_one(data):
    volume = data.draw(volumes([np.uint8]))
    scheme = data.draw(schemes(most=3))
    shape = volume.array.shape
    truth = data.draw(label_arrays(shape, scheme))
    at = data.draw(st.sets(st.integers(0, shape[0] - 1), min_size=2, max_size=4) if shape[0] > 1
                   else st.just({0}))  # fmt: skip
    windows = data.draw(st.lists(extents(shape), max_size=2))
    boxes = [plane(z, shape) for z in at]
    if windows:  # planes that are known in different windows, and slabs
        boxes = [w.intersect(b) for w in windows for b in boxes] + windows[:1]
        boxes = [b for b in boxes if b.n_vox]
    store = new_store()
    convert(volume.source, store, **volume.options)
    write_labels(source(truth), store, "roi", scheme, extents=boxes)
    known = known_mask(shape, boxes)
    _, p_y, p_x = volume.spacing_um
    spacing = (p_y / min(p_y, p_x), p_x / min(p_y, p_x))
    expected, all_known = filled(truth, known, spacing)
    if (all_known == known).all():
        with pytest.raises(RequestError):
            write_interpolated(store, "roi")
        return
    memory_bytes = data.draw(st.sampled_from([1, 2**30]))
    found = write_interpolated(store, "roi", memory_bytes=memory_bytes)
    np.testing.assert_array_equal(known_mask(shape, found.extents), all_known)
    assert sum(e.n_vox for e in found.extents) == all_known.sum()
    level0 = expected.astype(found.array().dtype)
    for k, voxels in enumerate(mode_pyramid(level0, all_known, volume.n_levels)):
        path = f"labels/roi_interpolated/{k}/roi_interpolated"
        np.testing.assert_array_equal(read_voxels(store, path), voxels, strict=True)
    assert not [key for key in read_files(store) if key.startswith("thc/staged")]


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """The files of a store with annotated planes of a phantom."""
    path = str(tmp_path_factory.mktemp("annotated") / "volume.ome.zarr")
    name = ",".join(map(str, PHANTOM))
    convert(f"phantom:{name}", path, levels=4, chunk=(8, 16, 16), shard=(16, 32, 32))
    labels(f"phantom:{name}?channel=roi", path, "roi", "prasad2020-roi", planes=PLANES)
    return read_files(path)


@pytest.fixture
def store(annotated, tmp_path):
    """A store with annotated planes of a phantom."""
    path = tmp_path / "volume.ome.zarr"
    for key, data in annotated.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_bytes(data)
    return str(path)


def truth():
    phantom = Phantom(PHANTOM).labels("roi")
    return read(phantom, phantom.grid.extent)


def voxel_files(store, name):
    return {k: v for k, v in read_files(store).items() if name in k and "journal" not in k}


@pytest.fixture(scope="module")
def on_threads(annotated, tmp_path_factory):
    path = tmp_path_factory.mktemp("threads") / "volume.ome.zarr"
    for key, data in annotated.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_bytes(data)
    interpolate(str(path), "roi")
    return voxel_files(path, "roi_interpolated")


def test_every_executor_makes_the_same_bytes(store, executor, on_threads):
    interpolate(store, "roi")
    assert voxel_files(store, "roi_interpolated") == on_threads
    assert verify(store)["whole"]


def test_annotated_planes_stay_and_nothing_lies_beyond_them(store):
    interpolate(store, "roi", into="all")
    found, expected = read_voxels(store, "labels/all/0/all"), truth()
    np.testing.assert_array_equal(found[PLANES], expected[PLANES])
    known = known_mask(PHANTOM, Store(store).label_set("all").extents)
    assert known[PLANES].all()
    assert not known[:3].any()
    assert not known[22:].any()
    assert known[3:22].mean() > 0.9
    assert (found == expected)[known].mean() > 0.93


def test_a_region_that_ends_is_not_drawn_out(store):
    """The hypothalamus is on the first planes only; where it ends nobody knows."""
    codes = truth()
    hyp = 7
    first_without = min(z for z in PLANES if not (codes[z] == hyp).any())
    last_with = max(z for z in PLANES if z < first_without)
    interpolate(store, "roi")
    found = read_voxels(store, "labels/roi_interpolated/0/roi_interpolated")
    known = known_mask(PHANTOM, Store(store).label_set("roi_interpolated").extents)
    assert not (found[last_with + 1 :] == hyp).any()
    where = codes[last_with] == hyp
    assert where.any()
    assert not known[last_with + 1 : first_without, where].any()
    # Beyond that plane the place belongs to others, and is known.
    assert known[first_without, where].all()


def test_leave_one_out_equals_the_naive_scores(store):
    volume = interpolate(store, "roi")
    found = leave_one_out(volume)
    assert found["plane"].values.tolist() == [9, 10, 17]
    assert found["below"].values.tolist() == [3, 3, 10]  # 9 and 10 touch: out together
    assert found["above"].values.tolist() == [17, 17, 21]
    codes = truth()
    for z, below, above in zip(
        *(found[k].values for k in ("plane", "below", "above")), strict=True
    ):
        pair = [codes[i].astype(np.int64) + 1 for i in (below, above)]
        foretold = between_planes(*pair, above - below)[z - below - 1]
        lost = np.zeros(foretold.shape, bool)
        for y, x in np.argwhere(foretold == 0) // TILE * TILE:
            lost[y : y + TILE, x : x + TILE] = True
        for code in range(9):
            row = found.sel(plane=z).isel(region=code)
            there, said = codes[z] == code, foretold == code + 1
            counts = [int((m & ~lost).sum()) for m in (there, said, there & said)]
            assert [int(row[n]) for n in ("n_predicted", "n_both")] == counts[1:]
            assert int(row["n_annotated"]) == int(there.sum())
            assert int(row["n_unknown"]) == int((there & lost).sum())
            assert bool(row["bracketed"]) == all((p == code + 1).any() for p in pair)
            if row["bracketed"] and sum(counts):
                assert float(row["dice"]) == 2 * counts[2] / (counts[0] + counts[1])
            else:
                assert np.isnan(row["dice"])
    valid = found["bracketed"]
    assert found["n_unknown"].sum() > 0
    compared = found["n_annotated"] - found["n_unknown"]
    total = (compared + found["n_predicted"]).where(valid).sum("plane")
    both = found["n_both"].where(valid).sum("plane")
    xr.testing.assert_allclose(found["dice_all"].dropna("region"),
                               (2 * both / total).where(total > 0).dropna("region"))  # fmt: skip


def test_what_is_not_foretold_is_told():
    """Code 7 ends before the last plane: of the middle one, where it is, nothing is foretold."""
    store = new_store()
    convert(source(np.zeros((9, 32, 32), np.uint8)), store, **SMALL)
    codes = np.full((3, 32, 32), 3, np.uint8)
    codes[:2, :16, :16] = 7
    labels(source(codes), store, "roi", TWO, planes=[1, 4, 7])
    found = leave_one_out(interpolate(store, "roi")).sel(plane=4)
    a, b = found.sel(region="a"), found.sel(region="b")
    assert (int(a["n_annotated"]), int(a["n_unknown"]), float(a["dice"])) == (32**2 - 16**2, 0, 1)
    assert (int(b["n_annotated"]), int(b["n_unknown"])) == (16**2, 16**2)
    assert np.isnan(b["dice"])
    assert not b["bracketed"]
    shown = info(store)["labels"]["roi_interpolated"]["interpolated"]["leave_one_out"]["regions"]
    assert [shown[name]["not_foretold"] for name in ("none", "a", "b")] == [None, 0.0, 1.0]


def test_what_an_older_set_does_not_tell_is_not_made_up(store):
    scores = leave_one_out(interpolate(store, "roi"))
    opened = Store(store)
    for score in opened.label_set("roi_interpolated").thc["provenance"][0]["leave_one_out"]:
        del score["n_unknown"]
    old = leave_one_out(opened)
    assert old[["n_annotated", "n_unknown"]].to_array().isnull().all()
    xr.testing.assert_equal(old[["dice", "dice_all"]], scores[["dice", "dice_all"]])
    assert describe(opened.label_set("roi_interpolated"))["leave_one_out"]["regions"]["CTX"] == {
        "dice": pytest.approx(float(scores["dice_all"].sel(region="CTX")), abs=1e-4),
        "worst": pytest.approx(float(scores["dice"].sel(region="CTX").min()), abs=1e-4),
        "n_planes": 3, "not_foretold": None,
    }  # fmt: skip


def test_of_a_slab_three_planes_are_compared(store):
    name = ",".join(map(str, PHANTOM))
    labels(f"phantom:{name}?channel=roi", store, into="roi", planes=[11, 12, 13])
    found = leave_one_out(interpolate(store, "roi"))
    assert found["plane"].values.tolist() == [9, 11, 13, 17]
    assert found["below"].values.tolist() == [3, 3, 3, 13]


@pytest.mark.parametrize("step", ["planes", "distances", "shapes", "leaving planes out", ""])
def test_what_breaks_off_leaves_nothing(store, step):
    class Breaks:
        def __call__(self, done, total):
            raise AssertionError

        def watch(self, standing):
            if standing.step == step and standing.done:
                raise KeyboardInterrupt

    before = read_files(store)
    with pytest.raises(KeyboardInterrupt):
        interpolate(store, "roi", progress=Breaks())
    assert read_files(store) == before
    interpolate(store, "roi")


def test_two_planes_have_no_plane_to_leave_out():
    store = new_store()
    convert(source(np.zeros((9, 8, 8), np.uint8)), store, **SMALL)
    codes = np.full((2, 8, 8), 3, np.uint8)
    codes[:, :, 5:] = 7
    labels(source(codes), store, "roi", TWO, planes=[1, 7])
    found = leave_one_out(interpolate(store, "roi"))
    assert found.sizes["plane"] == 0
    assert found["dice_all"].isnull().all()
    assert (
        info(store)["labels"]["roi_interpolated"]["interpolated"]["leave_one_out"]["over_um"]
        is None
    )


def test_a_changed_source_makes_it_stale(store):
    interpolate(store, "roi")
    made = info(store)["labels"]["roi_interpolated"]["interpolated"]
    assert (made["source"], made["state"]) == ("roi", "up to date")
    assert made["annotated_planes"] == PLANES
    assert made["interpolated_planes"] == ["4:9", "11:17", "18:21"]
    name = ",".join(map(str, PHANTOM))
    labels(f"phantom:{name}?channel=roi", store, into="roi", planes=[6])
    stale = info(store)["labels"]["roi_interpolated"]["interpolated"]["state"]
    assert stale.startswith("stale: label set 'roi' has changed since; thc interpolate")
    assert "stale" in histogram(store, "roi_interpolated").attrs["interpolated"]["roi_interpolated"]
    with pytest.raises(ExistsError, match="--overwrite"):
        interpolate(store, "roi")
    interpolate(store, "roi", overwrite=True)
    made = info(store)["labels"]["roi_interpolated"]["interpolated"]
    assert made["state"] == "up to date"
    assert 6 in made["annotated_planes"]


def test_planes_say_whether_somebody_drew_them(store):
    interpolate(store, "roi")
    table = histogram(store, "roi_interpolated", by_plane=True)
    assert table["plane"].values[table["annotated"].values].tolist() == PLANES
    assert not table["annotated"].all()
    assert histogram(store, "roi", by_plane=True)["annotated"].all()


def test_figures_and_reports_say_so(store, tmp_path):
    interpolate(store, "roi")
    text = report(store, tmp_path / "report.html", by="roi_interpolated").read_text()
    assert text.count("interpolated from roi (up to date)") >= 3  # of panels A, B, D
    assert "interpolated between the 5 annotated planes of roi" in text


def test_a_damaged_shard_is_made_anew(store):
    interpolate(store, "roi")
    before = read_files(store)
    shard = next(k for k in before if k.startswith("labels/roi_interpolated/0/roi_interpolated/c/"))
    with open(f"{store}/{shard}", "r+b") as file:
        file.truncate(20)
    found = verify(store, repair=True)
    assert found["whole"]
    assert shard in found["mended"]
    assert read_files(store) == before
    # Another source: what was made from it cannot be made again.
    name = ",".join(map(str, PHANTOM))
    labels(f"phantom:{name}?channel=roi", store, into="roi", planes=[6])
    with open(f"{store}/{shard}", "r+b") as file:
        file.truncate(20)
    with pytest.raises(RequestError, match="has changed since"):
        verify(store, repair=True)


def test_counts_of_the_whole_volume(store):
    interpolate(store, "roi")
    count(store)
    table = histogram(store, "roi_interpolated")
    image, codes = (
        read_voxels(store, "0/image"),
        read_voxels(store, "labels/roi_interpolated/0/roi_interpolated"),
    )
    known = known_mask(PHANTOM, Store(store).label_set("roi_interpolated").extents)
    for code in range(9):
        expected = np.bincount(image[known & (codes == code)], minlength=256)
        np.testing.assert_array_equal(table.values[code], expected)
    assert table.attrs["answered_from"] == "plane table"


def test_regions_meet_structures_where_planes_do_not():
    """The published planes: regions and structures share one of them."""
    shape = (720, 40, 120)
    roi = [109, 159, 209, 259, 309, 359, 409, 410, 460]
    pixel = [*range(140, 441, 30), 410]
    name, store = ",".join(map(str, shape)), new_store()
    convert(f"phantom:{name}", store)
    labels(f"phantom:{name}?channel=roi", store, "roi", "prasad2020-roi", planes=roi)
    labels(f"phantom:{name}?channel=microstructure", store, "pixel", "prasad2020-microstructure",
           planes=sorted(set(pixel)))  # fmt: skip
    interpolate(store, "roi")
    plain, whole = (fractions(store, "pixel", by).compute() for by in ("roi", "roi_interpolated"))
    assert int(plain["n_planes"].max()) == 1
    assert plain["low"].isnull().all()
    everywhere = whole.sel(region=["CTX", "STR", "TRN", "VP", "ZI", "IC", "CC"])
    assert (everywhere["n_planes"] == len(set(pixel))).all()
    assert not everywhere["low"].isnull().any()
    assert (everywhere["n_vox"] > 8 * plain["n_vox"]).all()
    # Against the phantom's own regions, all of which it knows.
    phantom = Phantom(shape)
    true, structures = (
        read(phantom.labels(c), phantom.grid.extent) for c in ("roi", "microstructure")
    )
    for region in ("CTX", "STR", "VP"):
        code = int(whole["region_code"].sel(region=region))
        here = true[sorted(set(pixel))] == code
        shares = np.bincount(structures[sorted(set(pixel))][here], minlength=4) / here.sum()
        np.testing.assert_allclose(whole["fraction"].sel(region=region), shares, atol=0.01)
    assert whole.attrs["interpolated"] == {"roi_interpolated": "interpolated from roi (up to date)"}


ONE_PLANE = {"planes": [4]}


@pytest.mark.parametrize("ask", [summary, compare, profile, fractions])
def test_planes_between_are_no_replicates(store, ask):
    """An annotated plane is drawn with those that follow from it, unless a block is given."""
    source = f"phantom:{','.join(map(str, PHANTOM))}?channel=microstructure"
    labels(source, store, "microstructure", "prasad2020-microstructure")
    interpolate(store, "roi")
    few = {"n_resamples": 20}
    of = {"by": "roi", **few}
    assert " over planes" in ask(store, **of).attrs["interval"]
    of = {"by": "roi_interpolated", **few}
    found, block = ask(store, **of), ask(store, block=5, **of)  # 3, 9, 10, 17, 21: 4.5 apart
    assert " over blocks of 5 planes" in found.attrs["interval"]
    for name in found.data_vars:
        np.testing.assert_array_equal(found[name], block[name])
    assert " over planes" in ask(store, block=1, **of).attrs["interval"]


@pytest.mark.parametrize(
    ("known", "options", "error", "says"),
    [
        (ONE_PLANE, {}, RequestError, "nothing lies between two known planes"),
        ({"planes": [4, 5]}, {}, RequestError, "nothing lies between two known planes"),
        ({}, {"labels": "nuclei"}, MissingError, "no label set 'nuclei'; it has: roi"),
        ({}, {"into": "roi"}, RequestError, "the annotated set stays as it is"),
        ({}, {"into": "a b"}, RequestError, "letters, digits"),
    ],
)
def test_wrong_requests(known, options, error, says):
    store = new_store()
    convert(source(np.zeros((9, 8, 8), np.uint8)), store, **SMALL)
    labels(source(np.zeros((9, 8, 8), np.uint8)), store, "roi", TWO, **known)
    with pytest.raises(error, match=says):
        interpolate(store, **options)
    assert list(Store(store).label_sets) == ["roi"]


def test_what_is_interpolated_is_not_interpolated_again(store):
    interpolate(store, "roi")
    with pytest.raises(RequestError, match="is interpolated itself; interpolate 'roi'"):
        interpolate(store, "roi_interpolated")
    with pytest.raises(RequestError, match="'roi' is not interpolated"):
        leave_one_out(store, "roi")


def test_planes_without_a_code_in_common_are_refused():
    store = new_store()
    convert(source(np.zeros((9, 8, 8), np.uint8)), store, **SMALL)
    codes = np.stack([np.full((8, 8), code, np.uint8) for code in (3, 7)])
    labels(source(codes), store, "roi", TWO, planes=[1, 7])
    before = read_files(store)
    with pytest.raises(RequestError, match="no two planes have a code in common"):
        interpolate(store, "roi")
    assert read_files(store).keys() == before.keys()


def test_the_command_prints_the_scores(store, capsys, tmp_path):
    table = tmp_path / "scores.csv"
    assert cli.run(["interpolate", store, "roi", "--into", "all", "-o", str(table), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["labels"] == "all"
    assert shown["source"] == "roi"
    assert shown["state"] == "up to date"
    scores = shown["leave_one_out"]["regions"]
    assert scores["CTX"]["dice"] > 0.9
    assert scores["CTX"]["n_planes"] == 3
    assert 0 <= scores["CTX"]["not_foretold"] < 0.1 < scores["HYP"]["not_foretold"] <= 1
    lines = table.read_text().splitlines()
    assert lines[0] == "plane,region,dice,n_annotated,n_predicted,n_both,bracketed,n_unknown"
    assert len(lines) == 1 + 3 * 9
    assert cli.run(["interpolate", store, "roi", "--into", "all"]) == 2
    assert cli.run(["info", store]) == 0
    assert "leave_one_out:" in capsys.readouterr().out
