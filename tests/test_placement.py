"""Labels of a source that was flipped, cropped or put in another order when it was converted."""

import warnings

import h5py
import numpy as np
import pytest
import tifffile

from tests.assertions import known_mask, read_voxels
from tests.strategies import source
from thc_dask import convert, labels, open_source
from thc_dask.convert import write_store
from thc_dask.errors import RequestError
from thc_dask.grid import Box, Extent
from thc_dask.schemes import Label, Scheme
from thc_dask.store.read import Store

CODES = Scheme("codes", "region", tuple(Label(i, f"r{i}" if i else "none") for i in range(256)))
SHAPE, UM, ORIGIN = (20, 18, 30), (2.0, 0.5, 1.0), (-3.0, 1.5, 40.0)
SMALL = {"levels": 2, "chunk": (8, 8, 8), "shard": (16, 16, 16)}
# Codes that are grey levels: wherever labels are known, they must be what the image is.
IMAGE = np.random.default_rng(2).integers(0, 256, SHAPE, np.uint8)
PLANES = [3, 9, 15]
CROP = Box((5.0, 3.0, 44.0), (27.0, 9.1, 66.5))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A store with labels on some planes, and others of a part of it in a store of their own."""
    folder = tmp_path_factory.mktemp("scan")
    path, part = str(folder / "scan.ome.zarr"), str(folder / "part.ome.zarr")
    write_store(source(IMAGE, UM, ORIGIN), path, **SMALL)
    labels(source(IMAGE), path, "roi", CODES, planes=PLANES)
    box = Box((3.0, 2.0, 42.0), (20.0, 8.0, 60.0))
    convert(source(IMAGE, UM, ORIGIN), part, crop=box, **SMALL)
    labels(part, part, "roi", CODES)
    return path, part


def assert_lies_right(store, known):
    """Labels are the image where they are known, and ``known`` is where they are."""
    said = known_mask(read_voxels(store, "0/image").shape, Store(store).label_set("roi").extents)
    found = read_voxels(store, "labels/roi/0/roi")
    np.testing.assert_array_equal(found, np.where(said, read_voxels(store, "0/image"), 0))
    assert int(said.sum()) == known
    assert known > 0


@pytest.mark.parametrize("place", ["", "/0/image", "#level=0"])
@pytest.mark.parametrize("crop", [None, CROP])
@pytest.mark.parametrize("flip", ["", "z", "zx", "y"])
def test_labels_beside_the_source_are_turned_and_cut_with_it(scan, tmp_path, flip, crop, place):
    store = str(tmp_path / "v.ome.zarr")
    write_store(f"{scan[0]}{place}", store, flip=flip, crop=crop, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels(f"{scan[0]}/labels/roi", store)
    z, y, x = Store(store).grid.shape
    first = round((Store(store).grid.origin_um[0] - ORIGIN[0]) / UM[0])
    held = [n if "z" not in flip else SHAPE[0] - 1 - n for n in PLANES]
    assert_lies_right(store, sum(first <= n < first + z for n in held) * y * x)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("crop", [None, Box((1.0, 4.0, 3.0), (14.1, 11.0, 9.0))])
@pytest.mark.parametrize("flip", ["", "zx"])
@pytest.mark.parametrize("shape", [(12, 12, 12), (13, 12, 15)])
@pytest.mark.parametrize("order", ["yxz", "xyz"])
def test_labels_beside_a_source_in_another_order_are_put_in_that(
    tmp_path, order, shape, flip, crop, told
):
    image = np.random.default_rng(8).integers(0, 256, shape, np.uint8)
    scan, store = str(tmp_path / "scan.ome.zarr"), str(tmp_path / "v.ome.zarr")
    write_store(source(image, (1.0, 1.0, 1.0)), scan, **SMALL)
    known = [Extent((3, 0, 2), (5, 12, 9)), Extent((7, 4, 0), (8, 6, 12))]
    labels(source(image), scan, "roi", CODES, extents=known)
    write_store(scan, store, order=order, flip=flip, crop=crop, **SMALL)
    labels(f"{scan}/labels/roi", store, **({"order": order, "flip": flip} if told else {}))
    mask = known_mask(shape, known).transpose([order.index(axis) for axis in "zyx"])
    mask = mask[tuple(slice(None, None, -1 if axis in flip else 1) for axis in "zyx")]
    first = tuple(round(t) for t in Store(store).grid.origin_um)
    shown = Extent(first, tuple(a + n for a, n in zip(first, Store(store).grid.shape, strict=True)))
    assert_lies_right(store, int(mask[shown.slices].sum()))


@pytest.mark.parametrize("flip", ["", "x"])
def test_labels_of_another_image_of_a_collection_are_their_own(scan, tmp_path, flip):
    """Only what lies below an image is known to lie as it does."""
    other = tmp_path / "all.zarr/other.ome.zarr"
    for path in (tmp_path / "all.zarr/scan.ome.zarr", other):
        write_store(source(IMAGE, UM, ORIGIN), path, **SMALL)
    labels(source(IMAGE), other, "roi", CODES)
    store = tmp_path / "v.ome.zarr"
    write_store(tmp_path / "all.zarr/scan.ome.zarr", store, flip=flip, **SMALL)
    with pytest.warns(UserWarning, match="--flip x") if flip else warnings.catch_warnings():
        labels(other / "labels/roi", store)
    np.testing.assert_array_equal(read_voxels(store, "labels/roi/0/roi"), IMAGE)


@pytest.mark.parametrize("crop", [None, CROP])
@pytest.mark.parametrize("flip", ["", "x", "zy"])
def test_labels_of_a_part_are_turned_as_they_are_told_to_be(scan, tmp_path, flip, crop):
    store = str(tmp_path / "v.ome.zarr")
    write_store(scan[0], store, flip=flip, crop=crop, **SMALL)
    labels(f"{scan[1]}/labels/roi", store, flip=flip)
    part = Extent((3, 1, 2), (12, 13, 20))
    whole = Store(store).grid
    ends = zip("zyx", part.start, part.stop, SHAPE, strict=True)
    start, stop = zip(
        *[(n - b, n - a) if c in flip else (a, b) for c, a, b, n in ends], strict=True
    )
    first = tuple(round((t - o) / p) for t, o, p in zip(whole.origin_um, ORIGIN, UM, strict=True))
    shown = Extent(first, tuple(a + n for a, n in zip(first, whole.shape, strict=True)))
    assert_lies_right(store, Extent(start, stop).intersect(shown).n_vox)


@pytest.mark.parametrize(("order", "flip"), [("xyz", ""), ("xzy", "zx"), ("zyx", "y")])
def test_slices_are_turned_as_they_are_told_to_be(tmp_path, order, flip):
    """As the volume was: nothing in them says where their axes point to."""
    for name in ("image", "roi"):
        tifffile.imwrite(tmp_path / f"{name}.tif", IMAGE, photometric="minisblack")
    store = str(tmp_path / "v.ome.zarr")
    write_store(tmp_path / "image.tif", store, spacing="1um", order=order, flip=flip, **SMALL)
    labels(tmp_path / "roi.tif", store, "roi", CODES, order=order, flip=flip)
    assert_lies_right(store, IMAGE.size)


def test_it_is_said_that_a_volume_was_turned(scan, tmp_path):
    store = str(tmp_path / "v.ome.zarr")
    cube = np.arange(12**3, dtype=np.uint8).reshape(12, 12, 12)
    tifffile.imwrite(tmp_path / "cube.tif", cube, photometric="minisblack")
    options = {"spacing": "1um", "order": "yzx", "flip": "x"}
    write_store(tmp_path / "cube.tif", store, **options, **SMALL)
    with pytest.warns(UserWarning, match=r"with --order yzx --flip x; these are laid as it is now"):
        labels(tmp_path / "cube.tif", store, "now", CODES)
    np.testing.assert_array_equal(read_voxels(store, "labels/now/0/now"), cube)
    labels(tmp_path / "cube.tif", store, "roi", CODES, order="yzx", flip="x")
    assert_lies_right(store, cube.size)
    labels(tmp_path / "cube.tif", store, "same", CODES, order="zyx")
    np.testing.assert_array_equal(read_voxels(store, "labels/same/0/same"), cube)


def test_sources_whose_axes_have_names_need_no_order(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for name in ("image", "roi"):
            file[name] = IMAGE
            file[name].attrs["axes"] = "x:y:z"
    store = str(tmp_path / "v.ome.zarr")
    write_store(f"{tmp_path}/v.h5:image", store, spacing="1um", **SMALL)
    labels(f"{tmp_path}/v.h5:roi", store, "roi", CODES)  # warnings are errors
    assert_lies_right(store, IMAGE.size)


@pytest.mark.parametrize("named", ["labels/roi#level=1", "labels/roi/1/roi"])
def test_a_coarser_level_is_known_where_the_finest_is(scan, tmp_path, named):
    store = str(tmp_path / "v.ome.zarr")
    write_store(f"{scan[0]}#level=1", store, **SMALL)
    labels(f"{scan[0]}/{named}", store, "roi")
    known = known_mask(Store(store).grid.shape, Store(store).label_set("roi").extents)
    assert np.flatnonzero(known.any(axis=(1, 2))).tolist() == [z // 2 for z in PLANES]
    found = read_voxels(store, "labels/roi/0/roi")
    np.testing.assert_array_equal(found, read_voxels(scan[0], "labels/roi/1/roi"))


def test_a_label_set_is_not_made_of_itself(scan, tmp_path):
    store = str(tmp_path / "v.ome.zarr")
    write_store(scan[0], store, **SMALL)
    labels(f"{scan[0]}/labels/roi", store)
    for name in ("labels/roi", "labels/roi/0/roi", "labels/roi#level=0"):
        with pytest.raises(
            RequestError, match=r"would replace its own source; give another --name"
        ):
            labels(f"{store}/{name}", store, "roi", CODES, overwrite=True)
    with pytest.raises(RequestError, match=r"would replace its own source"):
        labels(open_source(f"{store}/labels/roi"), store, "roi", CODES, overwrite=True)
    labels(f"{store}/labels/roi", store, "copy")
    np.testing.assert_array_equal(
        read_voxels(store, "labels/copy/0/copy"), read_voxels(store, "labels/roi/0/roi")
    )
