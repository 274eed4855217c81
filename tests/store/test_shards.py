import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
import pytest
import zarr
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import new_store, read_files, read_voxels
from tests.strategies import extents, source, volumes
from thc_dask import histogram
from thc_dask.convert import write_store
from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent
from thc_dask.labels import write_labels
from thc_dask.reader import read
from thc_dask.schemes import Label, Scheme
from thc_dask.store.location import locate
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader, Codec

SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a"), Label(300, "b")))
LAYOUT = {"chunk": (4, 4, 8), "shard": (8, 8, 16), "levels": 3}


@settings(max_examples=20)
@given(st.data())
def test_any_box_of_voxels_is_read_as_it_was(data):
    volume = data.draw(volumes())
    store = new_store()
    write_store(volume.source, store, **volume.options)
    reader = Store(store).image()
    for _ in range(5):
        box = data.draw(extents(volume.array.shape))
        np.testing.assert_array_equal(read(reader, box), volume.array[box.slices], strict=True)


def split(shard, n_chunks):
    """Return the chunks of a shard as the zarr specification lays them out, None where absent."""
    index, crc = shard[-16 * n_chunks - 4 : -4], shard[-4:]
    assert google_crc32c.value(index) == int.from_bytes(crc, "little")
    chunks = []
    for offset, size in np.frombuffer(index, "<u8").reshape(-1, 2).tolist():
        if offset == size == 2**64 - 1:
            chunks.append(None)
            continue
        data = shard[offset : offset + size]
        assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")
        chunks.append(zstandard.ZstdDecompressor().decompress(data[:-4]))
    return chunks


def test_a_shard_is_laid_out_as_zarr_says_and_zeros_are_not_stored():
    array = np.zeros((8, 16, 32), np.uint16)
    array[:8, :8, :16] = np.arange(1024).reshape(8, 8, 16)
    array[4:, :4, 8:16] = 0
    array[7, 15, 31] = 9
    store = new_store()
    write_store(source(array), store, **LAYOUT | {"levels": 1})
    files = read_files(store)
    assert {k for k in files if "/c/" in k and "image" in k} == {
        "0/image/c/0/0/0",
        "0/image/c/0/1/1",
    }
    first = split(files["0/image/c/0/0/0"], 8)
    places = list(np.ndindex(2, 2, 2))
    for (z, y, x), data in zip(places, first, strict=True):
        chunk = array[4 * z : 4 * z + 4, 4 * y : 4 * y + 4, 8 * x : 8 * x + 8]
        if (z, y, x) == (1, 0, 1):
            assert data is None
        else:
            np.testing.assert_array_equal(np.frombuffer(data, "<u2").reshape(4, 4, 8), chunk)
    last = split(files["0/image/c/0/1/1"], 8)
    assert [data is None for data in last] == [True] * 7 + [False]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store on disk: noise with a corner of zeros, and labels on one plane."""
    rng = np.random.default_rng(8)
    image = rng.integers(0, 256, (13, 17, 40), np.uint8)
    image[:8, :8, :32] = 0
    path = tmp_path_factory.mktemp("shards") / "v.ome.zarr"
    write_store(source(image), path, **LAYOUT)
    roi = rng.choice(SCHEME.codes, image.shape)
    roi[:, 8:] = 0
    write_labels(source(roi), path, "roi", SCHEME, planes=[3])
    return path


@pytest.mark.parametrize(("receipts", "prefix"), [("image", ""), ("labels/roi/roi", "labels/roi/")])
def test_receipts_match_the_shards(store, receipts, prefix):
    files = read_files(store)
    name = receipts.split("/")[-1]
    lines = files[f"thc/receipts/{receipts}.jsonl"].decode().splitlines()
    said = {line.pop("key"): line for line in map(json.loads, lines)}
    levels = Store(store).levels
    found = {
        key: {
            "n_bytes": len(data),
            "crc32c": checksum(data, levels[int(key.removeprefix(prefix)[0])].chunks_per_shard),
        }
        for key, data in files.items()
        if key.startswith(prefix) and f"/{name}/c/" in key
    }
    assert said == {k: v for k, v in found.items() if prefix or not k.startswith("labels")}
    assert len(lines) == len(said) > 3


def checksum(shard, n_chunks):
    """Return the crc32c of the checksums of a shard, in the order in which they stand."""
    index = np.frombuffer(shard[-16 * math.prod(n_chunks) - 4 : -4], "<u8").reshape(-1, 2)
    ends = sorted(int(o + n) for o, n in index if o != 2**64 - 1)
    return google_crc32c.value(b"".join(shard[end - 4 : end] for end in [*ends, len(shard)]))


def test_any_other_voxel_is_another_digest():
    """Noise compresses to the same size whatever it is; its checksums must tell it apart."""
    rng = np.random.default_rng(8)
    noise = rng.integers(0, 256, (16, 16, 32), np.uint8)
    layout = {"chunk": (16, 16, 16), "shard": (16, 16, 32), "levels": 1}
    digests, sizes = set(), set()
    for i in range(12):
        image = noise.copy()
        if i:
            image[tuple(rng.integers(0, image.shape))] ^= 1 << int(rng.integers(8))
        url = new_store()
        write_store(source(image), url, **layout)
        digests.add(Store(url).digest)
        sizes.add(len(read_files(url)["0/image/c/0/0/0"]))
    assert len(sizes) == 1
    assert len(digests) == 12


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_flipped_byte_is_noticed(dtype):
    array = np.random.default_rng(9).integers(1, 30, (4, 4, 12), dtype)
    url = new_store()
    write_store(source(array), url, chunk=(4, 4, 4), shard=(4, 4, 16), levels=1)
    key, location = "0/image/c/0/0/0", locate(url)
    whole = location.get(key)
    for i in range(len(whole)):
        location.put(key, whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        with pytest.raises(DataError, match=f"{url}/{key}: .* damaged"):
            read(Store(url).image(), Store(url).grid.extent)
    for n in range(0, len(whole), 7):
        location.put(key, whole[:n])
        with pytest.raises(DataError, match=f"{url}/{key}: .* damaged"):
            read(Store(url).image(), Store(url).grid.extent)
    location.put(key, whole)
    np.testing.assert_array_equal(read(Store(url).image(), Store(url).grid.extent), array)


def test_others_notice_a_flipped_byte_too_and_an_answer_names_the_shard(tmp_path):
    array = np.random.default_rng(10).integers(0, 256, (8, 8, 16), np.uint8)
    path = tmp_path / "v.ome.zarr"
    write_store(source(array), path, **LAYOUT)
    write_labels(source(array * 0), path, "roi", SCHEME)
    shard = path / "0/image/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=f"{shard}: chunk .* is damaged"):
        histogram(path).compute()
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(path / "0/image", mode="r")[...]


@pytest.mark.parametrize("codec", ["zstd:1", "zstd:9", "zstd:19"])
def test_zstd_levels_hold_the_same_voxels(codec):
    array = np.random.default_rng(0).integers(0, 9, (9, 20, 33), np.uint16)
    tuned, leveled = new_store(), new_store()
    write_store(source(array), tuned, **LAYOUT)
    write_store(source(array), leveled, **LAYOUT, codec=codec)
    assert read_files(tuned)["0/image/c/0/0/0"] != read_files(leveled)["0/image/c/0/0/0"]
    for k in range(3):
        path = f"{k}/image"
        np.testing.assert_array_equal(read_voxels(leveled, path), read_voxels(tuned, path))
    assert Store(leveled).thc["codec"] == codec


@pytest.mark.parametrize("text", ["lz4", "zstd:0", "zstd:20", "zstd:x", "zstd:-1", ""])
def test_codecs_that_are_not_there(text):
    with pytest.raises(RequestError, match=f"codec {text!r}|zstd levels go from 1 to 19"):
        Codec.parse(text)


def test_readers_travel_without_what_they_have_read(store):
    opened = Store(store)
    reader, everything = opened.image(), opened.grid.extent
    fresh = len(pickle.dumps(reader))
    expected = read(reader, everything)
    assert len(pickle.dumps(reader)) == fresh
    copy = pickle.loads(pickle.dumps(reader))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(read, [copy] * 8, [everything] * 8):
            np.testing.assert_array_equal(found, expected)


def test_places_of_a_box_take_no_memory_for_the_volume(tmp_path):
    shape, chunk, shard = (2**20, 2**20, 2**20), (64, 64, 64), (256, 256, 256)
    array = ArrayReader(locate(tmp_path), "0/image", shape, chunk, shard, np.dtype(np.uint8))
    boxes = [
        Extent((2**19, 64, 0), (2**19 + 65, 128, 1)),
        Extent((2**19, 0, 0), (2**19 + 1, 65, 1)),
    ]
    assert array.places(boxes).tolist() == [[8192, 0, 0], [8192, 1, 0], [8193, 1, 0]]
    assert array.places([]).shape == (0, 3)
