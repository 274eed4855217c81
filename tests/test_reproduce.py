"""The paper's figures: made views and answers against plain numpy and the libraries; real files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import precision_recall_fscore_support

import thc_dask as thc
from tests.boss_server import BossServer
from thc_dask import cli
from thc_dask.catalogue import CUBES, GRID
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.reproduce.views import find_masks

REAL = Path(__file__).parents[2] / "shared/data/prasad2020"
REGIONS = ["CTX", "ZI", "STR", "TRN"]
STRUCTURES = ["background", "vessel", "cell", "axon"]
CODES = {"background": 0, "axon": 1, "vessel": 2, "cell": 3}  # those of masks.npz
QUICK = {"n_resamples": 60}


def made_masks(seed=1, n=8):
    """Views whose planes differ, so that an interval shows which unit was drawn."""
    rng = np.random.default_rng(seed)
    chances = {
        "ctx": (0.9, 0.0, 0.05, 0.05), "zi": (0.8, 0.0, 0.1, 0.1),
        "str": (0.6, 0.3, 0.05, 0.05), "trn": (0.3, 0.6, 0.05, 0.05),
    }  # fmt: skip
    return {name: rng.choice(4, size=(n, 12, 10), p=p).astype(np.int32)
            for name, p in chances.items()}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that a folder may hold, but the slice."""
    top = tmp_path_factory.mktemp("prasad")
    np.savez(top / "masks.npz", **made_masks())
    rng = np.random.default_rng(2)
    grey = {name: rng.integers(0, 256, (8, 12, 10)) for name in ("ctx", "zi", "str", "trn")}
    for name, values in grey.items():  # as the authors keep them
        np.savez(top / f"imgs_{name}.npz", (values / 255).astype(np.float32))
    np.savez(top / "levels.npz", **grey)
    key = np.array(["CTX", "HYP", "STR", "VP", "WM", "ZI"], object)[rng.integers(6, size=120)]
    answers = pd.DataFrame({"dataset": np.repeat([1, 2], 60), "item": np.tile(np.arange(60), 2)})
    answers["key"] = key
    for name, share in (("annotator1", 0.6), ("annotator2", 0.8)):
        answers[name] = np.where(rng.random(120) < share, key, rng.permutation(key))
    answers.to_csv(top / "irr.csv", index=False)
    return top


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    return thc.reproduce(folder, out, **QUICK), out


def square(path):
    table = pd.read_csv(path, index_col=0)
    assert list(table.index) == list(table.columns) == REGIONS
    return table.to_numpy()


def shares(masks):
    counts = np.array([
        [(masks[r.lower()] == CODES[s]).sum() for s in STRUCTURES] for r in REGIONS
    ])  # fmt: skip
    return counts / counts.sum(axis=1, keepdims=True)


def test_every_panel_but_the_slice_is_made(made):
    found, out = made
    assert list(found.files) == ["2A", "2B", "2C", "2D", "2E", "3B", "3C"]
    assert list(found.missing) == ["3A"]
    named = {name for files in found.files.values() for name in files}
    assert {p.name for p in out.iterdir()} == named | {"reproduce.json"}
    assert json.loads((out / "reproduce.json").read_text())["files"] == found.files
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in named if "png" in name)
    assert [e[:3] for e in found.errata["2E"]] == ["E1:", "E3:", "E4:", "E5:", "E6:", "E18", "E26"]
    assert found.inputs["masks.npz"]["n_bytes"] > 0
    assert len(found.inputs["imgs_trn.npz"]["sha256"]) == 64


def test_structures_are_those_of_plain_numpy(made):
    table = pd.read_csv(made[1] / "figure2c.csv")
    assert list(table) == ["region", "structure", "fraction", "low", "high", "denominator"]
    assert list(table.region) == [r for r in REGIONS for _ in STRUCTURES]
    assert list(table.structure) == STRUCTURES * 4
    truth = shares(made_masks())
    np.testing.assert_array_equal(table.fraction, truth.ravel())
    assert set(table.denominator) == {"all known pixels, background included"}
    fore = pd.read_csv(made[1] / "figure2c_foreground.csv").fraction.to_numpy().reshape(4, 3)
    np.testing.assert_allclose(fore, truth[:, 1:] / truth[:, 1:].sum(axis=1, keepdims=True))


def test_planes_are_drawn_not_views(made, folder):
    """Four corners of a plane belong together; the interval is that of scipy over planes."""
    masks = made_masks()["str"]
    axon = (masks == CODES["axon"]).reshape(4, 2, -1).sum(axis=(0, 2))  # views i and i + 2
    drawn = [axon[[a, b]].mean() / (4 * 120) for a in (0, 1) for b in (0, 1)]
    table = pd.read_csv(made[1] / "figure2c.csv").set_index(["region", "structure"])
    low, high = table.loc[("STR", "axon"), ["low", "high"]]
    assert low == pytest.approx(min(drawn))
    assert high == pytest.approx(max(drawn))
    sample = find_masks(folder)
    assert sample.views["STR"].planes.tolist() == [0, 1] * 4


def test_divergences_of_structures(made):
    p = shares(made_masks())
    fore = p[:, 1:]
    unit = fore / np.linalg.norm(fore, axis=1, keepdims=True)
    np.testing.assert_allclose(square(made[1] / "figure2e.csv"), 1 - unit @ unit.T, atol=1e-12)
    smooth = p * 960 + 1e-6
    kl = [[stats.entropy(a, b) for b in smooth] for a in smooth]
    np.testing.assert_allclose(square(made[1] / "figure2e_kl.csv"), kl, atol=1e-12)
    js = square(made[1] / "figure2e_js.csv")
    middle = (p[0] + p[3]) / 2
    wanted = (stats.entropy(p[0], middle) + stats.entropy(p[3], middle)) / 2
    assert js[0, 3] == js[3, 0] == pytest.approx(wanted)


def test_intensities_are_whole_levels(made, folder):
    table = pd.read_csv(made[1] / "figure2b.csv")
    counts = table["count"].to_numpy().reshape(4, 256)
    with np.load(folder / "levels.npz") as levels:
        truth = np.array([np.bincount(levels[r.lower()].ravel(), minlength=256) for r in REGIONS])
    np.testing.assert_array_equal(counts, truth)
    np.testing.assert_allclose(table.mean_count, truth.ravel() / 8)
    smooth = truth + 1e-6
    kl = [[stats.entropy(a, b) for b in smooth] for a in smooth]
    np.testing.assert_allclose(square(made[1] / "figure2d.csv"), kl, atol=1e-12)


def test_scores_are_those_of_scikit_learn(made, folder):
    table = pd.read_csv(made[1] / "figure3b.csv")
    assert list(table) == [
        "dataset", "annotator", "region", "precision", "recall", "f1", "support",
    ]  # fmt: skip
    answers = pd.read_csv(folder / "irr.csv")
    names = sorted(set(answers.key))
    for (dataset, annotator), rows in table.groupby(["dataset", "annotator"]):
        here = answers[answers.dataset == dataset]
        wanted = precision_recall_fscore_support(here.key, here[annotator], labels=names)
        assert list(rows.region) == names
        np.testing.assert_allclose(rows[["precision", "recall", "f1", "support"]].T, wanted)
    assert len(table) == 2 * 2 * 6


def test_significance_of_each_pair_once(made, folder):
    table = pd.read_csv(made[1] / "figure3c.csv", keep_default_na=False)
    assert len(table) == 3 * 15
    answers = pd.read_csv(folder / "irr.csv")
    row = table[(table.annotator == "annotator1") & (table.region == "CTX") & (table.other == "VP")]
    right = [(answers.annotator1 == answers.key)[answers.key == r] for r in ("CTX", "VP")]
    fisher = stats.fisher_exact([[x.sum(), (~x).sum()] for x in right])[1]
    assert row.p.astype(float).item() == pytest.approx(fisher)
    assert set(table.stars) <= {"*", "**", "***", "ns"}


def test_the_same_files_again(made, folder, tmp_path):
    thc.reproduce(folder, tmp_path, **QUICK)
    for path in made[1].iterdir():
        if path.name != "reproduce.json":
            assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_command_prints_what_to_know(tmp_path, capsys):
    np.savez(tmp_path / "masks.npz", **made_masks())
    out = tmp_path / "out"
    command = ["reproduce", str(tmp_path), "-o", str(out), "--resamples", "20"]
    assert cli.run(command) == 0
    said = capsys.readouterr().out
    assert "figure 2E: figure2e.csv figure2e_kl.csv figure2e_js.csv" in said
    assert "not made: 3A: slice_z309.tif, roi_z309.tif, roi_z309.json not in" in said
    assert "  E18: called a Kullback-Leibler divergence" in said
    assert said.count("  E26: ") == 1
    assert cli.run([*command, "--json"]) == 0
    assert "3A" in json.loads(capsys.readouterr().out)["missing"]


class Pattern:
    """The whole volume, made where it is read: codes on some planes, or grey levels."""

    shape = GRID.shape

    def __init__(self, dtype, planes=None):
        self.dtype, self.planes = np.dtype(dtype), planes

    def __getitem__(self, box):
        z, y, x = np.ogrid[box]
        mixed = z * 7 + (y * 31 + x * 17) % 61
        if self.planes is None:
            return (mixed % 256).astype(self.dtype)
        return np.where(np.isin(z, self.planes), 1 + mixed % 3, 0).astype(self.dtype)


def test_views_from_the_cubes_of_bossdb(tmp_path, monkeypatch):
    planes = [140, 170, 440]
    codes, grey = Pattern(np.uint64, planes), Pattern(np.uint8)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    with BossServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        labels = server.add("prasad/prasad2020/pixel_annotation", codes, spacing=GRID.spacing_um)
        image = server.add("prasad/prasad2020/image", grey, spacing=GRID.spacing_um)
        with pytest.warns(UserWarning, match="contrary to"):
            found = thc.reproduce(
                tmp_path / "data", tmp_path / "out", image=image, labels=labels, **QUICK
            )
    assert list(found.files) == ["2A", "2B", "2C", "2D", "2E"]
    assert set(found.inputs) == {"image", "labels"}
    table = pd.read_csv(tmp_path / "out/figure2c.csv").set_index(["region", "structure"])
    counts = pd.read_csv(tmp_path / "out/figure2b.csv").set_index(["region", "intensity"])
    for cube in CUBES:
        boxes = [(slice(z, z + 1), *cube.extent.slices[1:]) for z in planes]
        here = np.concatenate([codes[box] for box in boxes])
        for code, structure in enumerate(STRUCTURES):  # the paper's codes
            assert table.loc[(cube.region, structure), "fraction"] == (here == code).mean()
        levels = np.concatenate([grey[box] for box in boxes])
        wanted = np.bincount(levels.ravel(), minlength=256)
        np.testing.assert_array_equal(counts.loc[cube.region, "count"], wanted)


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        ({}, MissingError, "holds nothing to make a panel from"),
        ({"masks.npz": {"ctx": 0, "zi": 0, "str": 0}}, DataError, "no array trn"),
        ({"masks.npz": {"ctx": 0, "zi": 0, "str": 9, "trn": 0}}, DataError, "str: holds 9; codes"),
        ({"masks_zi.npz": {"arr_0": 0}}, DataError, "masks_ctx.npz is missing; each of CTX, ZI"),
        (
            {f"imgs_{r}.npz": {"arr_0": 1.7} for r in ("ctx", "zi", "str", "trn")},
            DataError, "float64 that are no grey levels; give uint8",
        ),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be(tmp_path, files, error, says):
    for name, arrays in files.items():
        held = {k: np.full((4, 3, 3), v) for k, v in arrays.items()}
        np.savez(tmp_path / name, **held)
    with pytest.raises(error, match=says):
        thc.reproduce(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_bad_file_keeps_no_other_panel_from_being_made(folder, tmp_path):
    data = shutil.copytree(folder, tmp_path / "data")
    (data / "masks.npz").write_bytes(b"PK no zip")
    for name in ("slice_z309.tif", "roi_z309.tif"):
        (data / name).write_bytes(b"no TIFF")
    (data / "roi_z309.json").write_text("{}")
    made = thc.reproduce(data, tmp_path / "out", **QUICK)
    assert sorted(made.files) == ["2B", "2D", "3B", "3C"]
    assert "masks.npz: not a readable .npz file" in made.missing["2C"] == made.missing["2E"]
    assert "slice_z309.tif" in made.missing["3A"]
    (data / "irr.csv").write_text("key,ann,ann\n")
    made = thc.reproduce(data, tmp_path / "again", **QUICK)
    assert "two columns 'ann'" in made.missing["3B"]
    with pytest.raises(RequestError, match="confidence 2: give a number between 0 and 1"):
        thc.reproduce(data, tmp_path / "third", confidence=2)
    assert not (tmp_path / "third").exists()


def test_requests_that_cannot_be_met(tmp_path, folder):
    (tmp_path / "masks.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"masks.npz: not a readable .npz file"):
        thc.reproduce(tmp_path, tmp_path / "out")
    with pytest.raises(MissingError, match="no such folder; give the one with masks"):
        thc.reproduce(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(RequestError, match="is a file; give a folder"):
        thc.reproduce(folder, tmp_path / "masks.npz")
    with pytest.raises(RequestError, match=r"does not hold the cube CTX at 110:471,900:1157"):
        thc.reproduce(folder, tmp_path / "out", image="phantom:8,16,16")
    with pytest.raises(RequestError, match="confidence 2: give a number between 0 and 1"):
        thc.reproduce(folder, tmp_path / "out", confidence=2)


def test_one_plane_gives_no_interval_and_says_so(tmp_path):
    np.savez(tmp_path / "masks.npz", **made_masks(n=4))
    found = thc.reproduce(tmp_path, tmp_path / "out", **QUICK)
    assert (
        "No interval for CTX, ZI, STR, TRN: one plane says nothing of others."
        in (found.notes["2C"])
    )
    assert pd.read_csv(tmp_path / "out/figure2c.csv").low.isna().all()


real = pytest.mark.skipif(
    not (REAL / "masks.npz").exists(), reason=f"the real files are not here: {REAL}"
)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    return thc.reproduce(REAL, out, **QUICK), out


@real
def test_what_the_real_files_allow(paper):
    found, _ = paper
    assert list(found.files) == ["2C", "2E", "3A", "3B", "3C"]
    assert "19 grey levels" in found.missing["2B"]


@real
def test_real_structures(paper):
    with np.load(REAL / "masks.npz") as masks:
        truth = shares(masks)
    table = pd.read_csv(paper[1] / "figure2c.csv")
    np.testing.assert_array_equal(table.fraction, truth.ravel())
    # STR and TRN alike, CTX and TRN unlike: what the paper says of its Figure 2E
    unlike = square(paper[1] / "figure2e.csv")
    assert unlike[2, 3] < 0.05 < 0.9 < unlike[0, 3]


@real
def test_real_answers(paper):
    table = pd.read_csv(paper[1] / "figure3b.csv")
    first = table[(table.dataset == 1) & (table.annotator == "annotator1")]
    assert first.set_index("region").f1["WM"].round(2) == 0.78  # E20
    assert set(table.support) == {30}


@real
@pytest.mark.parametrize("region", ["str", "trn"])  # the others are too empty at borders
def test_views_are_corners_of_planes(region):
    """Structures run on from view i into i + 8 below it and i + 16 to its right."""
    with np.load(REAL / "masks.npz") as masks:
        views = masks[region]

    def alike(a, b):
        some = (a > 0) | (b > 0)
        return ((a == b) & some).sum() / max(some.sum(), 1)

    below = np.array([[alike(a[-1], b[0]) for b in views] for a in views])
    beside = np.array([[alike(a[:, -1], b[:, 0]) for b in views] for a in views])
    tops, lefts = np.r_[0:8, 16:24], np.r_[0:16]
    for found, start, step in ((below, tops, 8), (beside, lefts, 16)):
        others = [np.delete(found[i], [i, i + step]).mean() for i in start]
        assert found[start, start + step].mean() > 2 * np.mean(others)
