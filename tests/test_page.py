import base64
import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib import image as mpl_image
from matplotlib.figure import Figure

from thc_dask.page import OPEN_ROWS, Section, render_report, table_html

HOSTILE = '<b>&"'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects what a page holds and checks that its elements are nested."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture
def page():
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([0, 1])
    table = pd.DataFrame({"region": ["CTX", HOSTILE], "n": [1234567, 2], "mean": [1.5, np.nan]})
    long = pd.DataFrame({"intensity": np.arange(OPEN_ROWS + 1), "count": 7})
    sections = [
        Section("First", ["One.", HOSTILE], figure, "A line", tables={"Means": table, "All": long}),
        Section("Where & from", facts={"store": HOSTILE, "box": {"z": [0, 1]}, "level": 0}),
        Section(HOSTILE, notes=["Exact counts."]),
    ]
    return Page(render_report(f"Report {HOSTILE}", sections, subtitle="5 µm $x"))


def test_contents_lead_to_the_sections(page):
    targets = [attrs["href"] for attrs in page.all("a")]
    assert targets == [f"#{attrs['id']}" for attrs in page.all("section")]
    assert len(set(targets)) == 3
    assert page.words.count("Where & from") == 2


def test_page_needs_nothing_else(page):
    for _, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert not page.all("script")
    assert not page.all("link")
    style = "".join(page.words)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_pictures_decode_and_have_words(page):
    (picture,) = page.all("img")
    assert picture["alt"] == "A line"
    assert (picture["width"], picture["height"]) == ("300", "200")
    data = base64.b64decode(picture["src"].split(",", 1)[1], validate=True)
    pixels = mpl_image.imread(io.BytesIO(data))
    assert pixels.shape[:2] == (300, 450)
    assert pixels.std() > 0


def test_hostile_words_stay_words(page):
    assert not page.all("b")
    # title twice, contents, heading, paragraph, cell, fact
    assert sum(HOSTILE in word for word in page.words) == 7
    assert "5 µm $x" in page.words


def test_tables_have_captions_and_long_ones_are_folded(page):
    assert len(page.all("caption")) == 2
    assert [attrs.get("aria-label") for attrs in page.all("table")] == [None, None, "Where & from"]
    assert len(page.all("details")) == 1
    assert f"All ({OPEN_ROWS + 1} rows)" in page.words
    assert {"1,234,567", "1.500", "\N{EN DASH}", '{"z": [0, 1]}', "0"} <= set(page.words)


def test_notes_say_how(page):
    assert "How these numbers were obtained" in page.words
    assert "Exact counts." in page.words


def test_page_reads_well_everywhere(page):
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    style = "".join(page.words)
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_alt_falls_back_to_the_heading():
    figure = Figure(figsize=(1, 1))
    page = Page(render_report("R", [Section("Slice", figure=figure)]))
    assert page.all("img")[0]["alt"] == "Slice"
    page = Page(render_report("R", [Section("Slice", figure=figure, caption="c", alt=HOSTILE)]))
    assert page.all("img")[0]["alt"] == HOSTILE


def test_report_without_sections():
    assert "Nothing" in Page(render_report("Nothing", [])).words


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.25, 3.0], ["0.2500", "3.000"]),
        ([5.0, np.nan], ["5", "\N{EN DASH}"]),
        ([1234.5, 98765.4], ["1234", "98,765"]),
        ([np.inf, 0.5], ["\N{INFINITY}", "0.5000"]),
        ([2**53 + 1, 1], ["9,007,199,254,740,993", "1"]),
        (["a", None], ["a", "\N{EN DASH}"]),
        ([True, False], ["True", "False"]),
        (pd.array([1, None], "Int64"), ["1", "\N{EN DASH}"]),
    ],
)
def test_numbers_in_tables(values, shown):
    page = Page(table_html(pd.DataFrame({"v": values}), "T"))
    assert page.words == ["T", "v", *shown]


def test_index_becomes_columns():
    frame = pd.DataFrame(
        {"n": [1]},
        index=pd.MultiIndex.from_tuples([("CTX", "cell")], names=["region", "structure"]),
    )
    words = Page(table_html(frame, "T")).words
    assert words == ["T", "region", "structure", "n", "CTX", "cell", "1"]
    assert Page(table_html(frame.iloc[:0], "T")).words == ["T", "region", "structure", "n"]
