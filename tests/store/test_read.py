import json
import math
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from tests.assertions import new_store, raise_if_computes
from tests.strategies import source
from thc_dask import open_volume
from thc_dask.convert import write_store
from thc_dask.errors import DataError, MissingError, RequestError, UnfinishedError
from thc_dask.labels import write_labels
from thc_dask.schemes import Label, Scheme
from thc_dask.store.location import locate
from thc_dask.store.read import Store, store_of

SHAPE = (20, 33, 17)
IMAGE = np.random.default_rng(2).integers(0, 256, SHAPE, np.uint8)
SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a", "region a", "#112233")))


@pytest.fixture
def url():
    """A store of three levels with labels on two planes."""
    made = new_store()
    write_store(source(IMAGE), made, chunk=(8, 8, 8), shard=(16, 16, 16), levels=3)
    write_labels(source(IMAGE % 2 * 3), made, "roi", SCHEME, planes=[4, 9])
    return made


def test_a_volume_is_opened_without_reading_voxels(url):
    voxels = [key for key in locate(url).keys("") if "/image/c/" in key or "/roi/c/" in key]
    assert len(voxels) > 10
    for key in voxels:
        locate(url).put(key, b"no shard at all")
    with raise_if_computes():
        volume = open_volume(url)
        assert volume["0/image"].shape == SHAPE
        assert volume["0/image"].mean(dim="z").dtype == np.float64
        assert volume["labels/roi/1/roi"].chunks is not None
    with pytest.raises(ValueError, match=r"checksum|slice|size|index"):
        volume["0/image"].values  # noqa: B018


def test_a_dask_chunk_is_a_shard(url):
    volume = open_volume(url)
    image = volume["0/image"]
    assert image.chunks == ((16, 4), (16, 16, 1), (16, 1))
    assert volume["1/image"].chunks == ((8, 2), (8, 8, 1), (8, 1))
    assert volume.attrs["store"] == url
    # Reading one chunk of the graph opens one shard.
    (corner,) = dask.compute(image.isel(z=0, y=0, x=0))
    assert corner == IMAGE[0, 0, 0]
    np.testing.assert_array_equal(volume["0/image"].sel(z=slice(2, 5), x=3.0), IMAGE[2:6, :, 3])


def test_label_sets_say_what_they_mean(url):
    labels = Store(url).label_set("roi")
    assert labels.scheme == SCHEME
    assert [str(e) for e in labels.extents] == ["4:5,0:33,0:17", "9:10,0:33,0:17"]
    with pytest.raises(MissingError, match="no label set 'rio'; it has: roi"):
        Store(url).label_set("rio")
    bare = new_store()
    write_store(source(IMAGE), bare)
    with pytest.raises(MissingError, match="it has: none yet: add one with thc labels"):
        Store(bare).label_set("roi")


def test_levels_follow_from_the_record(url):
    for k, level in enumerate(Store(url).levels):
        assert level.grid.shape == tuple(math.ceil(n / 2**k) for n in SHAPE)
        node = json.loads(locate(url).get(f"{k}/image/zarr.json"))
        assert node["shape"] == list(level.grid.shape)
        assert node["chunk_grid"]["configuration"]["chunk_shape"] == list(level.shard)
        assert node["codecs"][0]["configuration"]["chunk_shape"] == list(level.chunk)


def test_what_there_is_not_is_said(tmp_path):
    with pytest.raises(MissingError, match=f"{tmp_path}/v does not exist; make it with: thc conv"):
        open_volume(tmp_path / "v")
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(RequestError, match=f"{tmp_path} is not a store; make one with: thc conv"):
        open_volume(tmp_path)
    (tmp_path / "thc").mkdir()
    (tmp_path / "thc/plan.json").write_text("{}")
    with pytest.raises(UnfinishedError, match=f"{tmp_path} is not finished"):
        open_volume(tmp_path)


def test_a_lock_alone_is_no_store(tmp_path):
    """Who took it was cut off before anything was begun."""
    (tmp_path / "v" / "thc").mkdir(parents=True)
    (tmp_path / "v" / "thc" / "lock").touch()
    with pytest.raises(MissingError, match=f"{tmp_path}/v does not exist; make it with: thc conv"):
        Store(tmp_path / "v")


def root_of(url, **thc):
    root = json.loads(locate(url).get("zarr.json"))
    root["attributes"]["thc"] |= thc
    return json.dumps(root).encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"7", b"{}", b'{"attributes": {}}', b'{"attributes": {"thc": {}}}', b"\xff"],
)
def test_what_is_no_store_of_ours_is_refused(tmp_path, data):
    (tmp_path / "zarr.json").write_bytes(data)
    with pytest.raises((RequestError, DataError), match=f"{tmp_path} is not a store of thc_dask"):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    ("thc", "message"),
    [({"format": 99}, "has store format 99; .* upgrade it"), ({"format": "x"}, "not a store of")],
)
def test_records_of_other_versions(url, thc, message):
    locate(url).put("zarr.json", root_of(url, **thc))
    with pytest.raises(RequestError, match=message):
        open_volume(url)


def test_a_store_is_found_behind_what_users_hold(tmp_path, url):
    path = tmp_path / "v.ome.zarr"
    write_store(source(IMAGE), path)
    for given in (path, str(path), Path(path), open_volume(path), Store(path)):
        assert store_of(given).url == str(path)
    assert store_of(open_volume(url)).url == url
    for wrong in (7, None, IMAGE, xr.Dataset(), xr.DataTree()):
        with pytest.raises(RequestError, match=f"{type(wrong).__name__} is not a volume"):
            store_of(wrong)
