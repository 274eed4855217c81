"""Patches of the published slice z = 309: every one inside its region, as the files have it."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

import thc_dask as thc
from thc_dask.errors import RequestError

DATA = Path(__file__).parents[3] / "shared/data/prasad2020"
CODES = {"CTX": [1], "STR": [2], "VP": [3, 4], "ZI": [5], "WM": [6, 8], "HYP": [7]}

pytestmark = pytest.mark.skipif(
    not (DATA / "slice_z309.tif").exists(), reason=f"the real slice is not here: {DATA}"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("real") / "s.ome.zarr")
    window = json.loads((DATA / "roi_z309.json").read_text())["known_window"]
    (y0, y1), (x0, x1) = window["y"], window["x"]
    extent = thc.Extent((0, y0, x0), (1, y1, x1))
    thc.convert(DATA / "slice_z309.tif", path, spacing="1.17um")
    thc.labels(DATA / "roi_z309.tif", path, "roi", "prasad2020-roi", extents=[extent])
    return path


def test_the_regions_of_the_paper_have_views_of_150_um(store):
    found = thc.patches(store, merge="prasad2020", test=0)
    assert found["image"].shape[1:] == (128, 128)
    assert sorted(set(found["region"].values)) == sorted(CODES)
    n = found.attrs["n_per_region"]
    assert n >= 3
    image, roi = (tifffile.imread(DATA / f"{name}_z309.tif") for name in ("slice", "roi"))
    for i in range(found.sizes["patch"]):
        y, x = (int(found[name][i]) for name in ("y_vox", "x_vox"))
        window = (slice(y, y + 128), slice(x, x + 128))
        assert np.isin(roi[window], CODES[found["region"].values[i]]).all()
        np.testing.assert_array_equal(found["image"][i], image[window])


def test_narrow_regions_are_named_with_sizes_that_fit(store):
    with pytest.raises(RequestError, match=r"wholly inside TRN, CC; .* TRN [\d.]+ um.* CC [\d.]+"):
        thc.patches(store, test=0)


def test_one_plane_cannot_be_split(store):
    with pytest.raises(RequestError, match=r"one plane only, z = 0 um.*--test 0"):
        thc.patches(store, merge="prasad2020")
