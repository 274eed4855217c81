import re
from pathlib import Path

import pytest

from thc_dask import catalogue
from thc_dask.catalogue import (
    CHANNELS,
    CUBES,
    ERRATA,
    GRID,
    cautions,
    contradictions,
    errata,
    find_channel,
    known_extents,
    plane_of,
)
from thc_dask.errors import MissingError
from thc_dask.schemes import SCHEMES, find_scheme

PAPER = Path(__file__).parents[1].parent / "shared" / "paper.txt"
PIXELS = "bossdb://prasad/prasad2020/pixel_annotation"
REGIONS = "bossdb://prasad/prasad2020/region_of_interest"


@pytest.fixture(scope="module")
def paper():
    if not PAPER.is_file():
        pytest.skip(f"the text of the paper is not at {PAPER}")
    return " ".join(PAPER.read_text().split())


# --- what the paper says --------------------------------------------------------------------------


def test_cubes_are_those_of_the_paper(paper):
    pattern = r"(CTX|ZI|STR|TRN) \((\d+)_(\d+)__(\d+)_(\d+)__(\d+)_(\d+)\)"
    found = {name: list(map(int, rest)) for name, *rest in re.findall(pattern, paper)}
    assert set(found) == {cube.region for cube in CUBES}
    for cube in CUBES:
        x0, x1, y0, y1, z0, z1 = found[cube.region]
        if cube.region == "STR":  # E5: 470 in the Methods, 471 everywhere else
            assert z1 == 470
            z1 = 471
        assert (cube.extent.start, cube.extent.stop) == ((z0, y0, x0), (z1, y1, x1))
        assert cube.extent.shape == (361, 257, 257)


def test_planes_are_those_of_the_paper(paper):
    said = re.search(r"Valid z slices are ([\d, ]+)\.", paper)[1]
    regions, pixels = find_channel(REGIONS), find_channel(PIXELS)
    claim = {c.source: c.planes for c in regions.claims}["the paper"]
    assert claim == tuple(map(int, said.split(",")))
    said = re.search(
        r"we densely annotated \(starting at index z = 0\) slice z = ([\d, ]+)\.", paper
    )
    claim = {c.source: c.planes for c in pixels.claims}["the paper and the README"]
    assert claim == tuple(110 + int(z) for z in said[1].split(","))


def test_codes_are_those_of_the_paper(paper):
    said = re.search(r"The labels are 0-> no label; (.*?)\. In bossDB", paper)[1]
    scheme = find_scheme(find_channel(REGIONS).scheme)
    full = {"trn": "TRN", "vp": "VP"}
    for part in said.split("; "):
        code, name = part.split("-> ")
        assert scheme[full.get(name, name)].code == int(code)
    said = re.search(r"0-> no label \(background\); (1-> .*?)\. In bossDB", paper)[1]
    names = {"vasculature": "vessel", "cell body": "cell", "myelinated axon": "axon"}
    scheme = find_scheme(find_channel(PIXELS).scheme)
    for part in said.split("; "):
        code, name = part.split("-> ")
        assert scheme[names[name]].code == int(code)


def test_volume_is_that_of_the_paper(paper):
    assert "{}x{}x{} voxels".format(*GRID.shape) in paper
    assert f"{GRID.spacing_um[0]} micron isotropic" in paper


# --- the entries hold together --------------------------------------------------------------------


def test_errata_are_numbered_and_belong_to_figures_or_channels():
    assert [e.number for e in ERRATA] == list(range(1, 27))
    figures = {"1A", "1B", "1C", "2A", "2B", "2C", "2D", "2E", "3A", "3B", "3C"}
    channels = {channel.name for channel in CHANNELS}
    for e in ERRATA:
        assert e.touches
        assert set(e.touches) <= figures | channels
        assert str(e).startswith(f"E{e.number}: ")
        assert "\n" not in str(e)


def test_errata_of_a_figure_or_channel():
    assert {e.number for e in errata("2C")} >= {1, 3, 4, 6, 12, 22}
    assert errata("figure 2e") == errata("2E") == errata("Figure 2E")
    assert errata() == ERRATA
    assert errata("pixel_annotation")[0].number == 1
    with pytest.raises(MissingError, match=r"none touches '4Z'; known: 1A, "):
        errata("4Z")


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda c: c.name)
def test_channels_are_whole(channel):
    assert find_channel(channel.address) is channel
    assert all(GRID.extent.contains(window) for window in channel.windows)
    assert channel.scheme in {"", *SCHEMES}
    assert all(0 <= z < GRID.shape[0] for z in channel.look_at)
    for claim in channel.claims:
        assert set(claim.planes) <= set(channel.look_at)
    assert {f"E{n}" for n in channel.errata} == {c.split(":")[0] for c in cautions(channel.address)}


# --- asking it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "name"),
    [
        (PIXELS, "pixel_annotation"),
        (f"{PIXELS}/", "pixel_annotation"),
        (f"{PIXELS}?level=0", "pixel_annotation"),
        (f"{PIXELS}?level=2", None),
        (f"{PIXELS}?level=two", None),
        ("bossdb://prasad/prasad2020/images", None),
        ("", None),
    ],
)
def test_addresses(location, name):
    found = find_channel(location)
    assert (found.name if found else None) == name
    assert (known_extents(location) is None) == (name is None)


def test_extents_are_whole_planes_or_planes_of_cubes():
    regions = known_extents(REGIONS)
    assert [e.start[0] for e in regions] == [109, 159, 209, 259, 309, 359, 409, 410, 460]
    assert all(e == plane_of(GRID.extent, e.start[0]) for e in regions)
    pixels = known_extents(PIXELS)
    assert len(set(pixels)) == 4 * 12
    assert {e.shape for e in pixels} == {(1, 257, 257)}
    assert all(sum(cube.extent.contains(e) for cube in CUBES) == 1 for e in pixels)
    assert known_extents("bossdb://prasad/prasad2020/image") is None
    assert cautions("bossdb://lab/mouse/image") == []


def test_what_agrees_with_one_source_contradicts_another():
    at_notebooks = contradictions(PIXELS, known_extents(PIXELS))
    assert at_notebooks == [
        "pixel_annotation: plane 470 holds labels, contrary to the paper and the README (E3)"
    ]
    at_paper = contradictions(PIXELS, [e for e in known_extents(PIXELS) if e.start[0] < 470])
    assert at_paper == [
        "pixel_annotation: plane 470 is empty, contrary to the notebook annotation_access (E3)"
    ]


def test_what_a_cube_lacks_and_another_scheme_are_said():
    found = [e for e in known_extents(PIXELS) if e.start[0] < 470 or e.start[2] != 3700]
    said = contradictions(PIXELS, found, "prasad2020-masks")
    assert "not prasad2020-masks (E1)" in said[0]
    assert said[-1] == (
        "pixel_annotation: plane 470 is empty in the cube STR, not in the others (E5)"
    )
    assert len(said) == 3
    assert contradictions(PIXELS, found, "prasad2020-microstructure") == said[1:]


def test_what_was_not_searched_contradicts_nothing():
    found = [e for e in known_extents(REGIONS) if e.start[0] < 200]
    assert contradictions(REGIONS, found, looked_at=[109, 159]) == []
    assert contradictions(REGIONS, found[:1], looked_at=[109, 159]) == [
        "region_of_interest: plane 159 is empty, contrary to the notebook roi_access and the "
        "README (E2)",
        "region_of_interest: plane 159 is empty, contrary to the paper (E2)",
    ]
    assert contradictions("bossdb://lab/mouse/cells", found) == []


def test_public_names_exist():
    assert all(hasattr(catalogue, name) for name in catalogue.__all__)
