"""The panels: which are drawn, what they show, and the numbers behind them."""

import re

import numpy as np
import pytest
import xarray as xr
from matplotlib import image as mpl_image
from scipy.stats import entropy

import thc_dask as thc
from thc_dask.errors import MissingError, RequestError, WriteError
from thc_dask.figures import choose_sets, panels, slice_panel
from thc_dask.store.read import Store

SHAPE = (6, 40, 60)
RNG = np.random.default_rng(12)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.integers(0, 4, SHAPE, np.uint8)
CELLS = RNG.integers(0, 4, SHAPE, np.uint8)
PLANES = [1, 4]


def array(values):
    return xr.DataArray(values, dims=("z", "y", "x"))


def make(path, *names):
    thc.convert(array(IMAGE), path, spacing="1um")
    if "roi" in names:
        thc.labels(array(ROI), path, "roi", "prasad2020-roi", planes=PLANES)
    if "cells" in names:
        thc.labels(array(CELLS), path, "cells", "prasad2020-microstructure")
    if "areas" in names:
        thc.labels(array(ROI), path, "areas", "prasad2020-roi")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("figures") / "v.ome.zarr", "roi", "cells")


@pytest.fixture(scope="module")
def drawn(store):
    return list(panels(store))


def test_all_panels_in_order(drawn):
    assert [panel.letter for panel in drawn] == ["A", "A", "B", "C", "D", "E"]
    for panel in drawn:
        assert panel.caption.endswith(".")
        assert panel.notes
        assert panel.figure.axes
    assert all(panel.tables for panel in drawn if panel.letter != "A")


@pytest.mark.parametrize(
    ("names", "letters"), [(("roi",), "ABD"), (("cells",), "A"), (("roi", "cells"), "AABCDE")]
)
def test_what_the_label_sets_allow_is_drawn(tmp_path, names, letters):
    store = make(tmp_path / "v.ome.zarr", *names)
    assert "".join(panel.letter for panel in panels(store)) == letters


def test_sets_are_chosen(tmp_path):
    store = Store(make(tmp_path / "v.ome.zarr", "areas", "cells", "roi"))
    assert choose_sets(store, None, None) == ("roi", "cells")
    assert choose_sets(store, "areas", None) == ("areas", "cells")
    assert choose_sets(store, "cells", None) == ("cells", None)
    assert choose_sets(store, None, "cells") == ("roi", "cells")
    with pytest.raises(RequestError, match="give --by a set of regions and --of a set of struct"):
        choose_sets(store, "cells", "roi")
    with pytest.raises(MissingError, match="has no label set 'x'; it has: areas, cells, roi"):
        choose_sets(store, None, "x")


def test_no_label_set(tmp_path):
    store = make(tmp_path / "v.ome.zarr")
    with pytest.raises(MissingError, match="has no label set to show; add one with thc labels"):
        list(panels(store))


def panel(drawn, letter):
    return next(p for p in drawn if p.letter == letter)


def test_the_numbers_of_the_distributions(drawn):
    summary, counts = panel(drawn, "B").tables.values()
    roi, image = ROI[PLANES], IMAGE[PLANES]
    assert summary["region"].tolist() == ["none", "CTX", "STR", "TRN"]
    assert summary["n_vox"].tolist() == np.bincount(roi.ravel()).tolist()
    np.testing.assert_allclose(summary["mean"], [image[roi == code].mean() for code in range(4)])
    wanted = [np.bincount(image[roi == code], minlength=256) for code in range(4)]
    assert counts["count"].tolist()[: 4 * 256] == np.ravel(wanted).tolist()


def test_the_numbers_of_the_fractions(drawn):
    [table] = panel(drawn, "C").tables.values()
    roi, cells = ROI[PLANES], CELLS[PLANES]
    shares = [np.mean(cells[roi == r] == s) for r in range(4) for s in (0, 2, 1, 3)]
    order = [table["structure"].tolist().index(n) for n in ("background", "cell", "vessel", "axon")]
    found = table["fraction"].to_numpy().reshape(4, 4)[:, order]
    np.testing.assert_allclose(found.ravel(), shares)
    assert "background included" in panel(drawn, "C").notes[0]


def rows_of(table, measure):
    return table.loc[table["measure"] == measure, "value"]


def test_the_numbers_of_the_divergences(drawn):
    [table] = panel(drawn, "D").tables.values()
    counts = [np.bincount(IMAGE[PLANES][ROI[PLANES] == code], minlength=256) for code in (1, 2, 3)]
    wanted = [entropy(p + 1e-6, q + 1e-6) for p in counts for q in counts]
    np.testing.assert_allclose(rows_of(table, "kl"), wanted, rtol=1e-9, atol=1e-12)
    ends = table[(table["region"] != table["other"]) & (table["measure"] == "js")]
    assert (ends["low"] <= ends["value"]).all()
    assert (ends["value"] <= ends["high"]).all()
    [table] = panel(drawn, "E").tables.values()
    shares = np.array(
        [[np.mean(CELLS[PLANES][ROI[PLANES] == r] == s) for s in (1, 2, 3)] for r in (1, 2, 3)]
    )
    unit = shares / np.linalg.norm(shares, axis=1, keepdims=True)
    found = rows_of(table, "cosine")
    np.testing.assert_allclose(found, 1 - (unit @ unit.T).ravel(), atol=1e-12)


def test_a_box_is_kept_to(store):
    box = thc.Box((4, 0, 0), (5, 20, 30))
    found = list(panels(store, box=box))
    summary = next(iter(panel(found, "B").tables.values()))
    assert summary["n_vox"].sum() == 20 * 30
    assert any("One plane only, so no interval" in note for note in panel(found, "C").notes)
    assert any("-0.5:19.5" in note for note in panel(found, "B").notes)
    roi, image = ROI[4, :20, :30], IMAGE[4, :20, :30]
    counts = [np.bincount(image[roi == code], minlength=256) for code in (1, 2, 3)]
    wanted = [entropy(p + 1e-6, q + 1e-6) for p in counts for q in counts]
    [table] = panel(found, "D").tables.values()
    np.testing.assert_allclose(rows_of(table, "kl"), wanted, rtol=1e-9, atol=1e-12)
    assert set(table["note"]) == {"", "one plane only: no interval"}


def test_a_box_without_known_voxels(store):
    with pytest.raises(RequestError, match="no region has counts: count a label set, or a box"):
        list(panels(store, box=thc.Box((2, 0, 0), (3, 9, 9))))


def test_the_slice_is_one_that_is_known(store):
    opened = Store(store)
    shown = slice_panel(opened, opened.label_set("roi"))
    assert shown.caption == "Plane 4 at level 0 with the regions of label set 'roi'."
    shown = slice_panel(opened, opened.label_set("cells"))
    assert shown.caption == "Plane 3 at level 0 with the structures of label set 'cells'."


def test_the_slice_is_the_one_of_which_most_is_known(tmp_path):
    store = make(tmp_path / "v.ome.zarr")
    extents = [thc.Extent((z, 0, 0), (z + 1, 40, width)) for z, width in ((0, 9), (2, 60), (5, 30))]
    thc.labels(array(ROI), store, "roi", "prasad2020-roi", extents=extents)
    opened = Store(store)
    assert "Plane 2 at" in slice_panel(opened, opened.label_set("roi")).caption


def test_a_small_cube_is_shown_from_near(tmp_path):
    store = make(tmp_path / "v.ome.zarr")
    cube = [thc.Extent((2, 8, 8), (4, 16, 16))]
    thc.labels(array(CELLS), store, "cells", "prasad2020-microstructure", extents=cube)
    opened = Store(store)
    axes = slice_panel(opened, opened.label_set("cells")).figure.axes[0]
    shown = axes.images[0].get_array().shape[:2]
    assert shown == (10, 10)  # eight voxels and a margin of an eighth on each side


def test_figures_as_files(store, tmp_path):
    names = ["a_roi.png", "a_cells.png", "b.png", "c.png", "d.png", "e.png"]
    files = thc.figures(store, tmp_path / "new/folder")
    assert [path.name for path in files] == names
    for path in files:
        assert mpl_image.imread(path)[..., :3].std() > 0.02  # something is on it
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == sorted(names)


def test_figures_as_drawings(tmp_path):
    store = make(tmp_path / "v.ome.zarr", "roi")
    for suffix, start in ((".svg", b"<?xml"), (".pdf", b"%PDF")):
        files = thc.figures(store, tmp_path, suffix=suffix)
        assert [path.suffix for path in files] == [suffix] * 3
        assert all(path.read_bytes().startswith(start) for path in files)
    with pytest.raises(RequestError, match=re.escape("'.gif'; use .png, .svg or .pdf")):
        thc.figures(store, tmp_path, suffix=".gif")


def test_figures_where_a_file_is(store, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="a part of the path is a file; choose another target"):
        thc.figures(store, tmp_path / "file")
