"""The main job end to end on a phantom: what comes out equals what went in."""

import csv
import re

import pytest
import tifffile

import thc_dask as thc
from thc_dask import cli
from thc_dask.demo import MARK

SHAPE = (24, 72, 144)
REGIONS = ["none", "CTX", "STR", "TRN", "VP", "ZI", "IC", "HYP", "CC"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a demo, and what it said."""
    folder, told = tmp_path_factory.mktemp("demo") / "out", []
    assert thc.demo(folder, shape=SHAPE, seed=3, tell=told.append) == folder / "report.html"
    return folder, told


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    assert cli.run([str(a) for a in arguments]) == 0


def test_the_report_has_all_panels(demo):
    folder, told = demo
    page = (folder / "report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "The volume",
        "A. Slice with regions",
        "A. Slice with structures",
        "B. Intensity by region",
        "C. Structures by region",
        "D. Divergence of intensities",
        "E. Divergence of composition",
        "Provenance",
    ]
    assert page.count("data:image/png;base64,") == 6
    assert told[-1] == f"report: {folder}/report.html"
    assert [line.split(":")[0] for line in told] == [
        "phantom", "convert", "labels", "count", "figures", "report",
    ]  # fmt: skip


def test_the_report_opens_offline(demo):
    page = (demo[0] / "report.html").read_text()
    loaded = re.findall(r"(?:src|href|url|action|data)\s*[=(]\s*[\"']?([^\"'\s>)]+)", page)
    assert loaded
    assert [x for x in loaded if not x.startswith(("data:image/", "#"))] == []
    assert re.findall(r"<(script|iframe|object|embed|link)\b", page) == []
    assert "default-src 'none'" in page


def test_the_figures_are_there_as_files(demo):
    names = sorted(path.name for path in (demo[0] / "figures/phantom").iterdir())
    assert names == ["a_microstructure.png", "a_roi.png", "b.png", "c.png", "d.png", "e.png"]


def test_counts_equal_the_truth_of_the_annotated_planes(demo, tmp_path):
    folder, _ = demo
    run("histogram", folder / "phantom.ome.zarr", "-o", tmp_path / "h.csv")
    found, wanted = (tmp_path / "h.csv"), folder / "phantom/truth/histogram_planes.csv"
    assert rows(found) == rows(wanted)
    assert sum(int(row["count"]) for row in rows(found)) > 0


@pytest.fixture(scope="module")
def dense(demo, tmp_path_factory):
    """A store of the demo's slices with every plane labelled, made by the commands."""
    phantom, store = demo[0] / "phantom", tmp_path_factory.mktemp("dense") / "v.ome.zarr"
    run("convert", phantom / "image", store, "--spacing", "1.17um")
    for name, scheme in (("roi", "roi"), ("microstructure", "microstructure")):
        source = phantom / "labels" / name
        run("labels", source, store, "--name", name, "--scheme", f"prasad2020-{scheme}")
    run("count", store)
    return store


def test_all_counts_equal_the_truth(demo, dense, tmp_path):
    run("histogram", dense, "-o", tmp_path / "h.csv")
    assert rows(tmp_path / "h.csv") == rows(demo[0] / "phantom/truth/histogram.csv")


def test_fractions_equal_the_truth(demo, dense, tmp_path):
    run("fractions", dense, "-o", tmp_path / "f.csv")
    found, wanted = rows(tmp_path / "f.csv"), rows(demo[0] / "phantom/truth/fractions.csv")
    for name in ("region", "structure", "count"):
        assert [row[name] for row in found] == [row[name] for row in wanted]
    for got, true in zip(found, wanted, strict=True):
        if int(true["count"]):
            assert float(got["fraction"]) == pytest.approx(float(true["fraction"]), rel=1e-12)
            assert float(got["low"]) <= float(got["fraction"]) <= float(got["high"])


def test_planes_equal_the_truth(demo, dense):
    found = thc.histogram(dense, by_plane=True).sum("intensity")
    wanted = rows(demo[0] / "phantom/truth/planes.csv")
    assert found.region.values.tolist() == REGIONS
    assert found.values.ravel().tolist() == [int(row["count"]) for row in wanted]
    assert found.plane.values.tolist() == list(range(SHAPE[0]))


def test_the_image_is_that_of_the_files(demo, dense):
    files = sorted((demo[0] / "phantom/image").iterdir())
    volume = thc.open_volume(dense)["0/image"]
    for z in (0, 11, SHAPE[0] - 1):
        assert (volume[z].values == tifffile.imread(files[z])).all()


def test_a_demo_replaces_a_demo_and_nothing_else(demo, tmp_path, capsys):
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / MARK).touch()
    (folder / "old").touch()
    run("demo", folder, "--shape", "4,24,48", "--seed", "9", "--json")
    assert f'{{"report": "{folder}/report.html"}}\n' == capsys.readouterr().out
    assert not (folder / "old").exists()
    slices = thc.open_volume(folder / "phantom.ome.zarr")["0/image"].values
    assert (slices == thc.open_source("phantom:4,24,48?seed=9").values).all()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").touch()
    with pytest.raises(thc.ThcError, match="mine is not empty and no demo made it"):
        thc.demo(tmp_path / "mine", shape=(4, 24, 48))
    with pytest.raises(thc.ThcError, match="letter is not empty and no demo made it"):
        thc.demo(tmp_path / "mine/letter", shape=(4, 24, 48))
