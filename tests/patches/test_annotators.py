"""What people and classifiers make of patches: sheets that tell nothing, scores that are fair."""

import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.ndimage import find_objects, label
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

import thc_dask as thc
from thc_dask import cli
from thc_dask.errors import RequestError
from thc_dask.kernels.agreement import ALIKE, ALONE, EXACT, UNDEFINED
from thc_dask.patches.classify import answer, score
from thc_dask.patches.sheets import VIEWS, write_sheet
from thc_dask.plot.sheets import contact_sheet

SHAPE = "phantom:128,256,768"
ASKED = {
    "size_um": 40, "n_per_region": 40, "test": 0.5, "regions": "CTX,STR,VP,ZI", "seed": 2,
    "merge": "VP=TRN,VP", "margin_um": 15,
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("phantom") / "v.ome.zarr")
    thc.convert(SHAPE, path, levels=1)
    thc.labels(f"{SHAPE}?channel=roi", path, "roi", "prasad2020-roi")
    return path


@pytest.fixture(scope="module")
def found(store):
    return thc.patches(store, **ASKED)


def made(n, regions=("A", "B"), test=0.5, shape=(16, 16)):
    """Grey patches of a few regions; the rest is as ``patches`` gives it."""
    rng = np.random.default_rng(n)
    image = rng.integers(60, 120, (n, *shape), np.uint8)
    coords = {
        "patch": np.arange(n), "region": ("patch", np.resize(np.array(regions, object), n)),
        "split": ("patch", np.where(np.arange(n) < n * test, "test", "train").astype(object)),
    }  # fmt: skip
    attrs = {"size_um": 16.0, "spacing_um": [1.0, 1.0, 1.0]}
    return xr.Dataset({"image": (("patch", "y", "x"), image)}, coords, attrs)


def panels(path):
    """Return how many views there are on a picture, whatever they show: large dark areas."""
    pixels = matplotlib.image.imread(path)[..., :3].min(axis=-1)
    boxes = find_objects(label(pixels < 0.97)[0])
    return sum((b[0].stop - b[0].start > 100) & (b[1].stop - b[1].start > 100) for b in boxes)


# ---- sheets --------------------------------------------------------------------------------


def test_a_view_for_each_test_patch(tmp_path):
    patches = made(2 * (VIEWS + 7))
    # White in all views is one row alone: the rest of a view is one darker area.
    patches["image"][:] = np.minimum(patches["image"], 100)
    patches["image"][:, 0] = 255
    files = write_sheet(patches, tmp_path / "sheet.png")
    assert files == [str(tmp_path / "sheet.png"), str(tmp_path / "sheet_2.png")]
    assert [panels(file) for file in files] == [VIEWS, 7]
    assert [panels(f) for f in write_sheet(patches, tmp_path / "e.png", examples=True)] == [
        VIEWS,
        7,
    ]


def test_without_a_split_all_are_drawn(tmp_path):
    patches = made(5, test=0)
    patches["image"][:, 0] = 255
    [file] = write_sheet(patches, tmp_path / "sheet.png")
    assert panels(file) == 5
    assert not list(tmp_path.glob("sheet_*"))


def test_pages_of_a_longer_run_do_not_stay(tmp_path):
    other = [
        tmp_path / name for name in ("sheet_9.png", "sheet_02.png", "sheet_3.pdf", "sheet.pdf")
    ]
    for file in other:
        file.write_text("somebody's")
    write_sheet(made(2 * (2 * VIEWS + 1)), tmp_path / "sheet.png")
    assert (tmp_path / "sheet_3.png").exists()
    files = write_sheet(made(2 * 5), tmp_path / "sheet.png")
    assert files == [str(tmp_path / "sheet.png")]
    assert sorted(tmp_path.iterdir()) == sorted([*other, tmp_path / "sheet.png"])


def test_a_sheet_gives_no_answer_away(tmp_path):
    """Whatever regions they are of, and wherever, the sheet is the same to the last byte."""
    patches = made(60)
    other = patches.assign_coords(
        region=("patch", np.roll(np.where(np.arange(60) % 3, "A", "B").astype(object), 7))
    )
    for name, which in (("a", patches), ("b", other)):
        write_sheet(which, tmp_path / f"{name}.png")
        write_sheet(which, tmp_path / f"{name}_e.png", examples=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a_e.png").read_bytes() != (tmp_path / "b_e.png").read_bytes()


def test_views_keep_their_shape_and_names():
    views = np.zeros((8, 10, 20), np.uint8)
    figure = contact_sheet(views, [f"n{i}" for i in range(8)], (0, 9), (4.0, 1.0), "t $x$")
    [axes] = figure.axes
    assert [t.get_text() for t in axes.texts] == [f"n{i}" for i in range(8)]
    assert len(axes.images) == 8
    for image in axes.images:
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(10 * 4 / 20)
        assert image.get_clim() == (0, 9)
    assert len({tuple(np.round(image.get_extent(), 6)) for image in axes.images}) == 8
    wide, high = figure.get_size_inches()
    assert all(i.get_extent()[1] <= wide and i.get_extent()[2] <= high for i in axes.images)


@pytest.mark.parametrize("views", [np.zeros((0, 4, 4)), np.zeros((2, 4, 4)), np.zeros((4, 4))])
def test_views_without_names_are_refused(views):
    with pytest.raises(RequestError, match="a name for each"):
        contact_sheet(views, ["one"], (0, 1))


# ---- classifiers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(found):
    return answer(found)


def test_classifiers_beat_chance_on_the_phantom(found, answers):
    scores = score(answers, n_resamples=500)
    assert scores["region"].values.tolist() == ["CTX", "STR", "VP", "ZI"]
    for name in ("logistic", "forest"):
        low = scores["accuracy_low"].sel(annotator=name).values
        assert (low > 0.25).all(), f"{name}: {scores['accuracy'].sel(annotator=name).values}"


def test_only_test_patches_are_asked(found, answers):
    test = found["split"].values == "test"
    assert answers["item"].tolist() == found["patch"].values[test].tolist()
    assert answers["key"].tolist() == found["region"].values[test].tolist()
    assert list(answers) == ["dataset", "item", "key", "logistic", "forest"]


def test_test_patches_have_no_say_in_what_is_learned(found, answers):
    """Other test patches, the brightest there can be, change no answer to the rest."""
    test = np.flatnonzero(found["split"].values == "test")
    other = found.compute()
    other["image"][test[::2]] = 255
    kept = answers["item"].isin(found["patch"].values[test[1::2]])
    again = answer(other)
    pd.testing.assert_frame_equal(again[kept], answers[kept])


def test_scores_are_those_of_scikit_learn(answers):
    scores = score(answers, n_resamples=50)
    for name in ("logistic", "forest"):
        own = scores.sel(dataset="test", annotator=name)
        regions = own["region"].values.tolist()
        expected = metrics.precision_recall_fscore_support(
            answers["key"], answers[name], labels=regions, zero_division=np.nan
        )
        for measure, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            np.testing.assert_allclose(own[measure], values)
        accuracy = metrics.accuracy_score(answers["key"], answers[name])
        kappa = metrics.cohen_kappa_score(answers["key"], answers[name])
        np.testing.assert_allclose(own["accuracy"], accuracy)
        np.testing.assert_allclose(own["kappa"], kappa)
        for measure in ("precision", "recall", "f1", "accuracy", "kappa"):
            low, value, high = (own[f"{measure}{end}"].values for end in ("_low", "", "_high"))
            there = ~np.isin(own[f"{measure}_note"].values, [UNDEFINED, ALONE, ALIKE])
            assert (low <= value)[there].all()
            assert (value <= high)[there].all()


def test_a_classifier_that_never_errs_is_not_certain(answers):
    scores = score(answers.assign(forest=answers["key"]), n_resamples=50)
    own = scores.sel(dataset="test", annotator="forest")
    n = len(answers)
    want = proportion_confint(n, n, method="beta")[0]
    np.testing.assert_allclose(own["accuracy_low"], want)
    assert set(own["accuracy_note"].values) == {EXACT}
    assert set(own["kappa_note"].values) == {ALIKE}
    assert scores.attrs["n_missing"] == {"logistic": 0, "forest": 0}


def test_executors_agree(store, answers, executor):
    pd.testing.assert_frame_equal(answer(thc.patches(store, **ASKED)), answers)


@pytest.mark.parametrize(
    ("patches", "words"),
    [
        (made(8, test=0), "not split"),
        (made(8, test=1), "not split"),
        (made(8, regions=("A",)), "all patches are of A"),
    ],
)
def test_what_cannot_be_classified(patches, words):
    with pytest.raises(RequestError, match=words):
        answer(patches)


def test_sixteen_bit_patches_are_classified_too():
    patches = made(40)
    bright = (patches["region"].values == "A").astype(np.uint16) * 9000
    image = patches["image"].values.astype(np.uint16) * 100 + bright[:, None, None]
    answers = answer(patches.assign(image=(("patch", "y", "x"), image)))
    assert (answers["forest"] == answers["key"]).all()
    assert (answers["logistic"] == answers["key"]).all()


# ---- the command ---------------------------------------------------------------------------


def test_one_command_makes_all_of_it(store, found, answers, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = (
        f"patches {store} --size 40um -n 40 --test 0.5 --regions CTX,STR,VP,ZI --seed 2 "
        "--merge VP=TRN,VP --margin 15 -o p.zarr --sheet s.png --examples e.png "
        "--classify scores.csv --answers answers.csv --json"
    )
    assert cli.run(line.split()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["written"] == [
        "p.zarr", "p_key.csv", "s.png", "s_2.png", "e.png", "e_2.png", "scores.csv", "answers.csv",
    ]  # fmt: skip
    assert all((tmp_path / name).exists() for name in facts["written"])
    xr.testing.assert_equal(xr.open_zarr("p.zarr").compute(), found.compute())
    expected = answer(xr.open_zarr("p.zarr"), seed=2)
    kept = pd.read_csv("answers.csv")
    assert kept.to_dict("list") == expected.to_dict("list")
    scores = pd.read_csv("scores.csv")
    assert list(scores)[:3] == ["dataset", "annotator", "region"]
    assert {"precision", "recall", "f1", "support", "accuracy", "kappa", "f1_low"} <= set(scores)
    assert len(scores) == 8
    right = (expected["key"] == expected["forest"]).mean()
    assert facts["accuracy"]["forest"][0] == round(right, 3)
    assert scores.set_index("annotator")["accuracy"]["forest"].round(9).eq(round(right, 9)).all()


def test_answers_go_to_agreement(answers, tmp_path, capsys):
    answers.to_csv(tmp_path / "answers.csv", index=False)
    assert cli.run(["agreement", str(tmp_path / "answers.csv"), "--table", "annotators"]) == 0
    assert "forest" in capsys.readouterr().out
