"""The published slice z = 309, through the command line, against plain numpy on its two files."""

import base64
import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.stats import entropy

import thc_dask as thc
from thc_dask import cli
from thc_dask.grid import parse_box

DATA = Path(__file__).parents[2] / "shared/data/prasad2020"
NAMES = ["none", "CTX", "STR", "TRN", "VP", "ZI", "IC", "HYP", "CC"]

pytestmark = pytest.mark.skipif(
    not (DATA / "slice_z309.tif").exists(), reason=f"the real slice is not here: {DATA}"
)


@pytest.fixture(scope="module")
def truth():
    """Counts by region and intensity inside the known window, from the two files alone."""
    image = tifffile.imread(DATA / "slice_z309.tif")
    roi = tifffile.imread(DATA / "roi_z309.tif")
    window = json.loads((DATA / "roi_z309.json").read_text())["known_window"]
    inside = tuple(slice(*window[axis]) for axis in "yx")
    counts = [np.bincount(image[inside][roi[inside] == code], minlength=256) for code in range(9)]
    return image, roi, inside, np.array(counts)


@pytest.fixture(scope="module")
def made(tmp_path_factory, truth):
    """The folder in which the sequence of commands has been run."""
    folder = tmp_path_factory.mktemp("real")
    store = folder / "s.ome.zarr"
    ys, xs = truth[2]
    extent = f"0:1,{ys.start}:{ys.stop},{xs.start}:{xs.stop}"
    for line in (
        f"convert {DATA}/slice_z309.tif {store} --spacing 1.17um",
        f"labels {DATA}/roi_z309.tif {store} --name roi --scheme prasad2020-roi --extent {extent}",
        f"histogram {store} --by roi -o {folder}/before.csv",
        f"count {store} --labels roi",
        f"histogram {store} --by roi -o {folder}/h.csv",
        f"compare {store} --by roi -o {folder}/d.csv",
        f"report {store} -o {folder}/report.html",
    ):
        assert cli.run(line.split()) == 0, line
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["h.csv", "before.csv"])
def test_every_bin_equals_numpy(made, truth, name):
    """From the tables, and from the voxels before there were any."""
    found = rows(made / name)
    assert list(found[0]) == ["region", "intensity", "count"]
    assert [row["region"] for row in found] == list(np.repeat(NAMES, 256))
    assert [int(row["intensity"]) for row in found] == list(range(256)) * 9
    assert [int(row["count"]) for row in found] == truth[3].ravel().tolist()


def test_voxels_of_each_region_equal_numpy(made, truth):
    _, roi, _, counts = truth
    found = thc.histogram(made / "s.ome.zarr").sum("intensity")
    assert found.region.values.tolist() == NAMES
    assert found.values.tolist() == counts.sum(axis=1).tolist()
    # No code lies outside the window, so these are all voxels of each region.
    assert found.values[1:].tolist() == np.bincount(roi.ravel(), minlength=9)[1:].tolist()


def test_outside_the_window_nothing_is_counted(made, truth):
    image, _, (ys, xs), counts = truth
    store = made / "s.ome.zarr"
    assert counts.sum() == (ys.stop - ys.start) * (xs.stop - xs.start) < image.size
    around = (
        f":,:{ys.start * 1.17},:", f":,{ys.stop * 1.17}:,:",
        f":,:,:{xs.start * 1.17}", f":,:,{xs.stop * 1.17}:",
    )  # fmt: skip
    for box in around:
        assert int(thc.histogram(store, box=parse_box(box)).sum()) == 0
    [extent] = thc.info(store)["labels"]["roi"]["extents"]
    assert extent == f"0:1,{ys.start}:{ys.stop},{xs.start}:{xs.stop}"


def test_a_box_equals_numpy(made, truth):
    image, roi, _, _ = truth
    box = parse_box("0:1,500:900.5,2000:3000")
    y, x = (1.17 * np.arange(n) for n in image.shape)
    ys, xs = (y >= 500) & (y < 900.5), (x >= 2000) & (x < 3000)
    here = np.ix_(ys, xs)
    wanted = [np.bincount(image[here][roi[here] == code], minlength=256) for code in range(9)]
    found = thc.histogram(made / "s.ome.zarr", box=box)
    np.testing.assert_array_equal(found.compute().values, wanted)


def test_divergences_equal_scipy(made, truth):
    """The paper's smoothing: a millionth of a count in every bin, before dividing."""
    smooth = truth[3][1:] + 1e-6
    names = NAMES[1:]
    found = {}
    for measure in ("kl", "js"):
        here = [r for r in rows(made / "d.csv") if r["measure"] == measure]
        assert [(r["region"], r["other"]) for r in here] == [(p, q) for p in names for q in names]
        found[measure] = [float(r["value"]) for r in here]
    wanted = [entropy(p, q) for p in smooth for q in smooth]
    np.testing.assert_allclose(found["kl"], wanted, rtol=1e-9, atol=1e-12)
    middles = [(p / p.sum() + q / q.sum()) / 2 for p in truth[3][1:] for q in truth[3][1:]]
    pairs = [(p, q) for p in truth[3][1:] for q in truth[3][1:]]
    wanted = [(entropy(p, m) + entropy(q, m)) / 2 for (p, q), m in zip(pairs, middles, strict=True)]
    np.testing.assert_allclose(found["js"], wanted, rtol=1e-9, atol=1e-12)


def test_the_report_shows_it(made, truth):
    page = (made / "report.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 3  # A, B and D: there are no structures
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in pictures)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    for n in truth[3].sum(axis=1):
        assert f"<td class=n>{n:,}</td>" in page
    assert "slice_z309.tif" in page
    assert thc.info(made / "s.ome.zarr")["digest"] in page


def test_the_demo_shows_the_slice_too(tmp_path):
    page = thc.demo(tmp_path / "demo", shape=(8, 40, 96), data=DATA).read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    real = [h.removeprefix("Real slice z = 309: ") for h in headings if h.startswith("Real slice")]
    assert real[1:-1] == [
        "A. Slice with regions", "B. Intensity by region", "D. Divergence of intensities",
    ]  # fmt: skip
    assert (tmp_path / "demo/figures/slice_z309/b.png").stat().st_size > 10_000
