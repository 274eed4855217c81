"""Stores are read and validated by what others use, without a line of ours."""

import warnings

import numpy as np
import ome_zarr_models.v05 as ome
import pytest
import tensorstore
import xarray as xr
import yaozarrs
import zarr

from tests.assertions import known_mask, mean_pyramid, mode_pyramid
from tests.strategies import source
from thc_dask import convert, count, labels
from thc_dask.grid import Extent
from thc_dask.schemes import Label, Scheme

REGIONS = Scheme(
    "r", "region", (Label(0, "none"), Label(3, "a", "Area", "#102030"), Label(700, "b"))
)
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(1, "cell")))
UM = (2.0, 1.17, 0.5)

# shape, what is asked of the layout, how many levels come of it
LAYOUTS = {
    "waves": ((37, 41, 53), {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 5}),
    "slabs": ((21, 30, 70), {"chunk": (4, 8, 16), "shard": (16, 16, 32), "levels": 3}),
    "plane": ((1, 70, 300), {}),
    "small": ((3, 2, 5), {"levels": 4}),
}


@pytest.fixture(scope="module", params=[(name, dtype) for name in LAYOUTS for dtype in "BH"])
def made(request, tmp_path_factory):
    """A store with an image, two label sets and, of 8 bit, tables; and what must be read."""
    name, dtype = request.param
    shape, options = LAYOUTS[name]
    rng = np.random.default_rng(14)
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    image[:, : shape[1] // 2, shape[2] // 2 :] = 0
    path = tmp_path_factory.mktemp(name) / "v.ome.zarr"
    volume = convert(
        source(image, UM, (5.0, 0.0, -1.0)), path, spacing="2um,1.17um,0.5um", **options
    )
    n_levels = len(volume.attrs["ome"]["multiscales"][0]["datasets"])
    roi = rng.choice(REGIONS.codes, shape).astype(np.uint16)
    known = Extent((0, 1, 1), (1, *shape[1:]))
    labels(source(roi, UM), path, "roi", REGIONS, extents=[known])
    micro = rng.choice(STRUCTURES.codes, shape).astype(np.uint8)
    labels(source(micro, UM), path, "micro", STRUCTURES)
    if dtype == "B":
        count(path)
    mask = known_mask(shape, [known])
    expected = {
        "{k}/image": mean_pyramid(image, n_levels),
        "labels/roi/{k}/roi": mode_pyramid(np.where(mask, roi, 0).astype("H"), mask, n_levels),
        "labels/micro/{k}/micro": mode_pyramid(micro, np.ones(shape, bool), n_levels),
    }
    return path, {
        path.format(k=k): level
        for path, levels in expected.items()
        for k, level in enumerate(levels)
    }


def test_yaozarrs_finds_nothing_wrong(made):
    path, _ = made
    yaozarrs.validate_zarr_store(path)


def test_ome_zarr_models_finds_nothing_wrong(made):
    """The image and each label set apart: it does not walk into nested labels."""
    path, expected = made
    for name in ("roi", "micro"):
        label = ome.ImageLabel.from_zarr(zarr.open_group(path / "labels" / name, mode="r"))
        assert label.ome_attributes.image_label.source.image == "../../"
    # Without labels the image stands alone; links keep its voxels where they are.
    alone = path.parent / "image_alone"
    if not alone.exists():
        alone.mkdir()
        for entry in path.iterdir():
            if entry.name.isdigit() or entry.name == "zarr.json":
                (alone / entry.name).symlink_to(entry)
    image = ome.Image.from_zarr(zarr.open_group(alone, mode="r", use_consolidated=False))
    datasets = image.ome_attributes.multiscales[0].datasets
    assert [d.path for d in datasets] == [key for key in expected if key.endswith("image")]


def test_label_sets_carry_colours_and_names(made):
    group = zarr.open_group(made[0] / "labels", mode="r")
    assert group.attrs["ome"]["labels"] == ["micro", "roi"]
    meta = group["roi"].attrs["ome"]["image-label"]
    assert [c["label-value"] for c in meta["colors"]] == [0, 3, 700]
    assert meta["colors"][1]["rgba"] == [0x10, 0x20, 0x30, 255]
    assert meta["properties"][1]["name"] == "a"


def test_plain_zarr_reads_every_voxel(made):
    path, expected = made
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    for key, voxels in expected.items():
        np.testing.assert_array_equal(group[key][...], voxels, strict=True)
        assert group[key].metadata.dimension_names == ("z", "y", "x")


def test_tensorstore_reads_every_voxel(made):
    path, expected = made
    for key, voxels in expected.items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / key)}}
        found = tensorstore.open(spec, read=True).result()
        assert found.domain.labels == ("z", "y", "x")
        np.testing.assert_array_equal(found.read().result(), voxels, strict=True)


def test_xarray_opens_the_tree_and_every_level(made):
    path, expected = made
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not even what the other tests let pass
        tree = xr.open_datatree(path, engine="zarr")
        level = xr.open_zarr(path, group="0")
    for key, voxels in expected.items():
        np.testing.assert_array_equal(tree[key], voxels, strict=True)
        assert tree[key].dims == ("z", "y", "x")
    np.testing.assert_array_equal(level["image"], expected["0/image"])
    for i, (axis, first) in enumerate(zip("zyx", (5.0, 0.0, -1.0), strict=True)):
        centres = level[axis]
        assert centres.attrs["units"] == "micrometer"
        np.testing.assert_allclose(
            centres, first + UM[i] * np.arange(centres.size), rtol=0, atol=1e-9
        )
    assert ("counts" in tree.children) == (expected["0/image"].dtype == np.uint8)
