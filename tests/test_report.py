"""The report: every panel, every number, where it comes from, and nothing from outside."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

import thc_dask as thc
from thc_dask.errors import MissingError
from thc_dask.figures import panels
from thc_dask.report import sections

SHAPE = (6, 40, 60)
RNG = np.random.default_rng(13)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.integers(0, 4, SHAPE, np.uint8)


def array(values):
    return xr.DataArray(values, dims=("z", "y", "x"), name="<script>alert(1)</script>")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "my <b>volume</b>.ome.zarr"
    thc.convert(array(IMAGE), path, spacing="1um")
    thc.labels(array(ROI), path, "roi", "prasad2020-roi", planes=[1, 4])
    thc.labels(array(ROI), path, "cells", "prasad2020-microstructure")
    thc.count(path)
    return path


class Page(HTMLParser):
    """The tables by caption, the headings, and every address of a page."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.headings, self.addresses, self.tags = {}, [], [], set()
        self._cells, self._rows, self._text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action")]
        self._text = ""

    def handle_data(self, data):
        self._text += data

    def handle_endtag(self, tag):
        if tag == "caption":
            self.tables[self._text] = self._rows = []
        elif tag in ("td", "th"):
            self._cells.append(self._text.strip())
        elif tag == "tr":
            self._rows.append(self._cells)
            self._cells = []
        elif tag == "h2":
            self.headings.append(self._text)


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new/report.html"
    assert thc.report(store, path) == path
    return path.read_text(encoding="utf-8")


def test_sections_are_those_of_the_paper(page):
    assert Page(page).headings == [
        "The volume", "A. Slice with regions", "A. Slice with structures",
        "B. Intensity by region", "C. Structures by region", "D. Divergence of intensities",
        "E. Divergence of composition", "Provenance",
    ]  # fmt: skip


def test_it_opens_offline(page):
    found = Page(page)
    assert found.addresses
    assert [a for a in found.addresses if not a.startswith(("#", "data:image/png;"))] == []
    assert not {"script", "link", "iframe", "object", "embed"} & found.tags
    assert "@import" not in page
    assert re.findall(r"url\(", page) == []


def test_numbers_in_it_are_those_of_the_store(store, page):
    counts = thc.histogram(store)
    [_, *rows] = Page(page).tables["All counts"]
    shown = [[region, int(i), int(n.replace(",", ""))] for region, i, n in rows]
    for row, code in (("none", 0), ("TRN", 3)):
        wanted = np.bincount(IMAGE[[1, 4]][ROI[[1, 4]] == code], minlength=256)
        assert [n for region, _, n in shown if region == row] == wanted.tolist()
    assert sum(n for *_, n in shown) == int(counts.sum()) == 2 * 40 * 60


def test_it_says_where_numbers_come_from(store, page):
    facts = thc.info(store)
    assert facts["digest"] in page
    assert f"thc_dask {thc.__version__}" in page
    assert "known on 2 planes, 4,800 voxels" in page
    assert "Answered from: plane table." in page
    assert page.count("How these numbers were obtained") == 6
    assert "none: grey levels are the source" in page


def test_names_are_text(page):
    assert "<script>alert" not in page
    assert "my <b>volume" not in page
    assert "my &lt;b&gt;volume&lt;/b&gt;.ome.zarr" in page


def test_the_same_store_gives_the_same_page(store, page, tmp_path):
    assert thc.report(store, tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_a_box_and_sets_are_kept_to(store):
    parts = sections(store, panels(store, by="cells", box=thc.Box((1, 0, 0), (2, 10, 10))))
    assert [part.heading for part in parts] == [
        "The volume", "A. Slice with structures", "B. Intensity by structure",
        "D. Divergence of intensities", "Provenance",
    ]  # fmt: skip
    assert parts[2].tables["Distribution of intensity by structure"]["n_vox"].sum() == 100


def test_a_report_of_a_box(store, page, tmp_path):
    path = thc.report(store, tmp_path / "r.html", by="cells", box=thc.Box((1, 0, 0), (2, 10, 10)))
    found = path.read_text(encoding="utf-8")
    assert "Box: 0.5:1.5,-0.5:9.5,-0.5:9.5 um." in found
    assert "Box: 0.5:1.5" not in page
    assert Page(found).headings[2] == "B. Intensity by structure"


def test_it_says_how_grey_levels_were_made(tmp_path):
    wide = IMAGE.astype(np.uint16) * 200
    thc.convert(array(wide), tmp_path / "v", spacing="1um", window="1000:40000")
    thc.labels(array(ROI), tmp_path / "v", "roi", "prasad2020-roi")
    text = thc.report(tmp_path / "v", tmp_path / "r.html").read_text(encoding="utf-8")
    assert "[1000.0, 40000.0]" in text
    assert "grey levels are the source" not in text


def test_no_label_set(tmp_path):
    thc.convert(array(IMAGE), tmp_path / "v", spacing="1um")
    with pytest.raises(MissingError, match="has no label set to show; add one with thc labels"):
        thc.report(tmp_path / "v", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
