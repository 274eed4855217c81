import os
import struct
import threading

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile

from thc_dask.errors import DataError, RequestError
from thc_dask.reader import read
from thc_dask.sources.slices import open_slices

UM = (2.0, 1.17, 1.17)


def noise(shape=(3, 33, 47), dtype="uint8", bits=None):
    bits = bits or 8 * np.dtype(dtype).itemsize
    low = -(1 << bits - 1) if np.dtype(dtype).kind == "i" else 0
    rng = np.random.default_rng(sum(shape))
    return rng.integers(low, low + (1 << bits), shape).astype(dtype)


def encoded(plane, kind="jp2", **options):
    return imagecodecs.jpeg2k_encode(plane, level=0, codecformat=kind, reversible=True, **options)


def whole(stack):
    return read(stack, stack.grid.extent)


def refused(error, match, path):
    with pytest.raises(error, match=match) as caught:
        open_slices(path, UM)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("uint8", 8), ("uint16", 16), ("uint8", 1), ("uint8", 4), ("uint16", 12), ("int16", 16),
     ("uint32", 24)],
)  # fmt: skip
def test_pixels(tmp_path, kind, dtype, bits):
    """Few bits are not stretched."""
    array = noise(dtype=dtype, bits=bits)
    for z, plane in enumerate(array):
        (tmp_path / f"z{z}.{kind.upper() if z else kind}").write_bytes(
            encoded(plane, kind, bitspersample=bits)
        )
    stack = open_slices(tmp_path, UM)
    assert stack.dtype == np.dtype(dtype)
    assert stack.unit == (1, 33, 47)
    assert stack.provenance["kind"] == "jpeg2000"
    np.testing.assert_array_equal(whole(stack), array)
    out = np.zeros((2, 5, 6), dtype)
    stack.read_into(out, (1, 20, 30))
    np.testing.assert_array_equal(out, array[1:, 20:25, 30:36])


def test_loss_is_that_of_the_file(tmp_path):
    smooth = np.add.outer(np.arange(130), np.arange(120)).astype("u1")
    data = imagecodecs.jpeg2k_encode(smooth, level=30, resolutions=3)
    (tmp_path / "a.jp2").write_bytes(data)
    found = whole(open_slices(tmp_path / "a.jp2", UM))[0]
    np.testing.assert_array_equal(found, imagecodecs.jpeg2k_decode(data))
    assert (found != smooth).any()


@pytest.mark.parametrize(
    "options",
    [{"tile_size": (32, 16)}, {"offset": (3, 5), "tile_offset": (0, 0), "tile_size": (64, 64)}],
)
def test_files_of_another_writer(tmp_path, options):
    plane = noise()[0]
    PIL.Image.fromarray(plane).save(tmp_path / "a.jp2", irreversible=False, **options)
    np.testing.assert_array_equal(whole(open_slices(tmp_path / "a.jp2", UM))[0], plane)


def test_threads(tmp_path):
    array = noise()
    for z, plane in enumerate(array):
        (tmp_path / f"{z}.j2k").write_bytes(encoded(plane, "j2k"))
    stack = open_slices(tmp_path, UM)
    outs = [np.zeros_like(array) for _ in range(4)]
    threads = [threading.Thread(target=stack.read_into, args=(out, (0, 0, 0))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, array)


def jp2_with(data, length):
    """Return a JP2 file whose image box gives its length as 0 (to the end) or in 64 bits."""
    at = data.index(b"jp2c") - 4
    body = data[at + 8 :]
    if length == 0:
        return data[:at] + struct.pack(">I4s", 0, b"jp2c") + body
    head = struct.pack(">I4sQ", 1, b"jp2c", 16 + len(body))
    return data[:at] + head + body + struct.pack(">I4s", 12, b"free") + b"more"


@pytest.mark.parametrize("length", [0, 64])
def test_lengths_of_boxes(tmp_path, length):
    plane = noise()[0]
    (tmp_path / "a.jp2").write_bytes(jp2_with(encoded(plane), length))
    np.testing.assert_array_equal(whole(open_slices(tmp_path / "a.jp2", UM))[0], plane)


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
def test_every_truncation_is_noticed(tmp_path, kind):
    data = encoded(noise()[0], kind)
    path = tmp_path / f"a.{kind}"
    for size in [*range(1, 200, 3), *range(200, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        refused(DataError, rf"a\.{kind} is (truncated|not a JPEG 2000 image)", path)


def test_damage_that_the_decoder_finds(tmp_path):
    data = bytearray(encoded(noise()[0]))
    at = data.index(b"\xff\x93")
    data[at : at + 2] = b"\0\0"
    (tmp_path / "a.jp2").write_bytes(data)
    stack = open_slices(tmp_path / "a.jp2", UM)
    with pytest.raises(DataError, match=r"a\.jp2 cannot be decoded, it is damaged: \w"):
        whole(stack)


def test_another_size_than_its_header_says(tmp_path):
    data = encoded(noise()[0])
    (tmp_path / "a.jp2").write_bytes(data)
    stack = open_slices(tmp_path / "a.jp2", UM)
    (tmp_path / "a.jp2").write_bytes(encoded(noise()[0, :20]).ljust(len(data), b"\0"))
    os.utime(tmp_path / "a.jp2", ns=(0, stack.files[0].mtime_ns))
    with pytest.raises(DataError, match=r"damaged: \(20, 47\) pixels instead of \(33, 47\)"):
        whole(stack)


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour(tmp_path, kind, channels):
    (tmp_path / f"a.{kind}").write_bytes(encoded(noise((20, 30, channels)), kind))
    match = rf"a\.{kind} is a colour or multi-channel image \({channels} channels\)"
    refused(RequestError, match, tmp_path / f"a.{kind}")


def test_palette(tmp_path):
    data = encoded(noise()[0])
    at = data.index(b"ihdr") + 4 + 14  # the end of the header's first box
    palette = struct.pack(">I4sHBBBB", 16, b"pclr", 1, 2, 7, 7, 7) + b"\1\2"
    header = data.index(b"jp2h") - 4
    size = struct.unpack(">I", data[header : header + 4])[0] + len(palette)
    data = data[:header] + struct.pack(">I", size) + data[header + 4 : at] + palette + data[at:]
    (tmp_path / "a.jp2").write_bytes(data)
    refused(RequestError, r"a\.jp2 is a colour .*\(colour palette\)", tmp_path / "a.jp2")


def test_no_voxel_size(tmp_path):
    (tmp_path / "a.jp2").write_bytes(encoded(noise()[0]))
    with pytest.raises(RequestError, match=r"no voxel size in .*a\.jp2; give it as --spacing"):
        open_slices(tmp_path / "a.jp2")


def test_other_files_beside(tmp_path):
    (tmp_path / "a.jp2").write_bytes(encoded(noise()[0]))
    tifffile.imwrite(tmp_path / "b.tif", noise()[0])
    refused(RequestError, r"several kinds are mixed: .*a\.jp2 and .*b\.tif; .*'\*\.tif'", tmp_path)
    (tmp_path / "b.tif").unlink()
    (tmp_path / "b.jp2").write_bytes(b"hello, world" * 9)
    refused(DataError, r"b\.jp2 is not a JPEG 2000 image", tmp_path)
    (tmp_path / "b.jp2").write_bytes(encoded(noise((1, 20, 47))[0]))
    refused(RequestError, r"b\.jp2 is uint8 \(20, 47\).*a\.jp2 is uint8 \(33, 47\)", tmp_path)
