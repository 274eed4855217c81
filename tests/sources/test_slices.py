import os
import pickle
import re
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.slices import open_slices

UM = (2.0, 1.17, 1.17)
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "prasad2020"


def volume(shape=(6, 37, 53), dtype="uint8"):
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


GREY = {"photometric": "minisblack"}


def write_slices(folder, array, **options):
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(array):
        tifffile.imwrite(folder / f"z{z}.tif", plane, **options)
    return folder


def whole(stack):
    return read(stack, stack.grid.extent)


def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def raw_png(path, depth, color, rows, width, palette=None):
    """Write a PNG of the kinds that imagecodecs does not write."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"tEXt", b"a\0b")
    if palette is not None:
        body += chunk(b"PLTE", bytes(palette))
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- the same voxels, however they are stored --------------------------------------------------

ENCODINGS = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "deflate": {"compression": "zlib", "rowsperstrip": 8},
    "deflate whole": {"compression": "zlib", "rowsperstrip": 37},
    "predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 8},
    "lzw big-endian": {"compression": "lzw", "byteorder": ">", "rowsperstrip": 10},
    "zstd": {"compression": "zstd", "rowsperstrip": 4},
    "packbits": {"compression": "packbits"},
    "tiles": {"tile": (16, 16)},
    "deflate tiles": {"compression": "zlib", "tile": (16, 32)},
    "imagej": {"imagej": True},
}
UNITS = {
    "deflate": (1, 8, 53),
    "deflate whole": (1, 37, 53),
    "predictor": (1, 8, 53),
    "lzw big-endian": (1, 10, 53),
    "zstd": (1, 4, 53),
    "packbits": (1, 37, 53),
    "tiles": (1, 16, 16),
    "deflate tiles": (1, 16, 32),
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Each encoding as one folder of slices and one multi-page file, uint16."""
    root = tmp_path_factory.mktemp("encoded")
    array = volume(dtype="uint16")
    for name, options in ENCODINGS.items():
        write_slices(root / name, array, **options)
        axes = {"metadata": {"axes": "ZYX"}} if name == "imagej" else {}
        tifffile.imwrite(root / f"{name}.tif", array, **options, **axes)
    return root, array


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("suffix", ["", ".tif"])
def test_encodings(encoded, name, suffix):
    root, array = encoded
    stack = open_slices(root / (name + suffix), UM)
    assert stack.unit == UNITS.get(name, (1, 1, 1))
    assert stack.grid.shape == array.shape
    assert stack.dtype == np.dtype("uint16")
    np.testing.assert_array_equal(whole(stack), array)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_random_blocks(encoded, data):
    root, array = encoded
    name = data.draw(st.sampled_from(sorted(ENCODINGS)))
    stack = open_slices(root / (name + data.draw(st.sampled_from(["", ".tif"]))), UM)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(array.shape, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    layout = data.draw(st.sampled_from(["new", "part", "transposed"]))
    if layout == "new":
        out = np.zeros(shape, "u2")
    elif layout == "part":
        out = np.zeros([n + 3 for n in shape], "u2")[1:-2, 2:-1, 1:-2]
    else:
        out = np.zeros(shape[::-1], "u2").T
    stack.read_into(out, start)
    np.testing.assert_array_equal(out, array[box])


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u4", "<f4", ">f4", "i1", "f8"]),
        st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(2, 20)),
    ),
    options=st.sampled_from([{}, {"rowsperstrip": 3}, {"compression": "zlib", "rowsperstrip": 3}]),
)
def test_dtypes(tmp_path_factory, array, options):
    path = tmp_path_factory.mktemp("dtypes") / "a.tif"
    order = array.dtype.byteorder if array.dtype.byteorder in "<>" else "="
    tifffile.imwrite(path, array, byteorder=order, photometric="minisblack", **options)
    stack = open_slices(path, UM)
    assert stack.dtype == array.dtype.newbyteorder("=")
    assert stack.dtype.isnative
    np.testing.assert_array_equal(whole(stack), array)


def test_wide_rows_are_not_read_in_full(tmp_path):
    array = volume((2, 9, 40_000), "uint16")
    stack = open_slices(write_slices(tmp_path / "wide", array), UM)
    out = np.zeros((2, 7, 5), "u2")
    stack.read_into(out, (0, 2, 39_990))
    np.testing.assert_array_equal(out, array[:, 2:, 39_990:39_995])


def test_strips_out_of_order(tmp_path):
    """Uncompressed strips that do not follow one another."""
    plane = volume((1, 4, 6))[0]
    tags = [(256, 6), (257, 4), (258, 8), (259, 1), (262, 1), (277, 1), (278, 2)]
    body = struct.pack("<2sHIH", b"II", 42, 8, len(tags) + 2)
    base = 8 + 2 + 12 * (len(tags) + 2) + 4
    for tag, value in tags[:5]:
        body += struct.pack("<HHII", tag, 4, 1, value)
    body += struct.pack("<HHII", 273, 4, 2, base)
    for tag, value in tags[5:]:
        body += struct.pack("<HHII", tag, 4, 1, value)
    body += struct.pack("<HHII", 279, 4, 2, base + 8) + struct.pack("<I", 0)
    body += struct.pack("<4I", base + 16 + 12, base + 16, 12, 12)
    (tmp_path / "a.tif").write_bytes(body + plane[2:].tobytes() + plane[:2].tobytes())
    np.testing.assert_array_equal(whole(open_slices(tmp_path / "a.tif", UM))[0], plane)


def test_one_bit_is_zero_and_one(tmp_path):
    mask = volume((2, 9, 13)) > 127
    write_slices(tmp_path / "plain", mask, photometric="minisblack")
    write_slices(tmp_path / "packed", mask, compression="zlib", photometric="minisblack")
    for name in ("plain", "packed"):
        stack = open_slices(tmp_path / name, UM)
        assert stack.dtype == np.uint8
        np.testing.assert_array_equal(whole(stack), mask.astype("u1"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"photometric": "miniswhite", "compression": "zlib"},
            r"viewers show 0 as white \(TIFF WhiteIsZero\)",
        ),
        ({"extratags": [(274, "H", 1, 4, True)]}, r"turn or mirror them \(TIFF Orientation 4\)"),
    ],
)
def test_voxels_are_as_stored_and_that_viewers_differ_is_said_once(tmp_path, options, said):
    array = volume((3, 5, 6))
    write_slices(tmp_path / "a", array, **options)
    with warnings.catch_warnings(record=True, action="always") as warned:
        slices = open_slices(tmp_path / "a", UM)
    assert len(warned) == 1
    assert re.search(said, str(warned[0].message))
    np.testing.assert_array_equal(whole(slices), array)


def test_segments_never_written(tmp_path):
    array = np.zeros((32, 32), np.uint8)
    array[:16, :16] = 7
    tiles = (array[:16, :16] if i == 0 else None for i in range(4))
    tifffile.imwrite(
        tmp_path / "a.tif", tiles, shape=(32, 32), dtype="u1", tile=(16, 16), compression="zlib"
    )
    np.testing.assert_array_equal(whole(open_slices(tmp_path / "a.tif", UM))[0], array)


def test_mixed_encodings(tmp_path):
    array = volume((4, 16, 21))
    for z, options in enumerate([{}, {"compression": "zlib"}, {"rowsperstrip": 3}, {}]):
        tifffile.imwrite(tmp_path / f"{z}.tif", array[z], **options)
    stack = open_slices(tmp_path, UM)
    assert stack.unit == (1, 16, 21)
    np.testing.assert_array_equal(whole(stack), array)


def test_jpeg_tables_of_each_file(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype("u1")
    for z, level in enumerate((50, 95)):
        tifffile.imwrite(
            tmp_path / f"{z}.tif", smooth, compression="jpeg", compressionargs={"level": level}
        )
    expected = np.stack([tifffile.imread(tmp_path / f"{z}.tif") for z in range(2)])
    np.testing.assert_array_equal(whole(open_slices(tmp_path, UM)), expected)


def test_grey_palette_gives_grey_levels(tmp_path):
    index = volume((1, 8, 9))[0]
    ramp, quantised = np.arange(256), np.arange(256) // 16 * 16
    for name, levels in (("ramp", ramp), ("quantised", quantised)):
        path = tmp_path / f"{name}.tif"
        colormap = np.broadcast_to((levels * 257).astype("u2"), (3, 256))
        tifffile.imwrite(path, index, photometric="palette", colormap=colormap)
        stack = open_slices(path, UM)
        np.testing.assert_array_equal(whole(stack)[0], levels[index])
        assert stack.unit == ((1, 1, 1) if name == "ramp" else (1, 8, 9))


def test_reduced_pages_are_left_out(tmp_path):
    array = volume((3, 32, 32))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for plane in array:
            tif.write(plane, metadata=None)
            tif.write(plane[::2, ::2], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(whole(open_slices(tmp_path / "a.tif", UM)), array)


# --- PNG ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png(tmp_path, dtype):
    array = volume((3, 17, 19), dtype)
    for z, plane in enumerate(array):
        (tmp_path / f"a{z}.PNG").write_bytes(imagecodecs.png_encode(plane))
    stack = open_slices(tmp_path, UM)
    assert stack.unit == (1, 17, 19)
    assert stack.provenance["kind"] == "png"
    np.testing.assert_array_equal(whole(stack), array)
    out = np.zeros((2, 3, 4), dtype)
    stack.read_into(out, (1, 5, 6))
    np.testing.assert_array_equal(out, array[1:, 5:8, 6:10])


@pytest.mark.parametrize(("depth", "packed"), [(1, b"\xa0"), (2, b"\x1b"), (4, b"\x1b\x0f")])
def test_png_of_few_bits_is_not_stretched(tmp_path, depth, packed):
    bits = np.unpackbits(np.frombuffer(packed, "u1")).reshape(-1, depth)
    expected = bits @ (1 << np.arange(depth)[::-1])
    raw_png(tmp_path / "a.png", depth, 0, [packed], len(expected))
    assert whole(open_slices(tmp_path / "a.png", UM)).ravel().tolist() == expected.tolist()


def test_png_palettes(tmp_path):
    grey = raw_png(tmp_path / "grey.png", 8, 3, [b"\0\1\2"], 3, [9, 9, 9, 50, 50, 50, 7, 7, 7])
    assert whole(open_slices(grey, UM)).ravel().tolist() == [9, 50, 7]
    color = raw_png(tmp_path / "color.png", 8, 3, [b"\0\1\2"], 3, [9, 9, 9, 50, 50, 50, 7, 8, 7])
    with pytest.raises(RequestError, match=r"color\.png .*palette.*convert it to grey"):
        open_slices(color, UM)


@pytest.mark.parametrize(("channels", "word"), [(2, "grey and alpha"), (3, "RGB"), (4, "RGBA")])
def test_png_colour_is_refused(tmp_path, channels, word):
    image = volume((8, 9, channels))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    with pytest.raises(RequestError, match=rf"a\.png .*\({word}\); convert it to grey"):
        open_slices(tmp_path / "a.png", UM)


def test_png_truncated(tmp_path):
    data = imagecodecs.png_encode(volume((1, 40, 40))[0])
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    stack = open_slices(tmp_path / "a.png", UM)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded, it is damaged"):
        whole(stack)


@pytest.mark.parametrize("size", [5, 20, 32])
def test_png_without_header(tmp_path, size):
    data = imagecodecs.png_encode(volume((1, 40, 40))[0])
    (tmp_path / "a.png").write_bytes(data[:size])
    with pytest.raises(DataError, match=r"a\.png is not a PNG"):
        open_slices(tmp_path / "a.png", UM)


# --- files, folders, patterns, lists -------------------------------------------------------------


def saved_as(folder, names):
    folder.mkdir()
    for name in names:
        tifffile.imwrite(folder / name, np.full((4, 5), 7, np.uint8))
    return folder


def test_a_gap_in_the_numbers_is_warned_of(tmp_path):
    names = [f"z{i:02}.tif" for i in range(15) if i not in (3, 6, 7)]
    folder = saved_as(tmp_path / "gap", names)
    said = r"3 of the numbers 0 to 14 are left out, the first between .*z02\.tif and z04\.tif"
    for location in (folder, folder / "z*.tif"):
        with pytest.warns(UserWarning, match=said):
            assert open_slices(location, UM).grid.shape[0] == 12
    assert open_slices([folder / name for name in names], UM).grid.shape[0] == 12  # as said


@pytest.mark.parametrize(
    "names",
    [
        ["z0.tif", "z10.tif", "z20.tif"],  # every tenth
        ["z1.tif", "z2.tif", "z10.tif"],  # chosen ones
        ["z3.tif", "z5.tif", "z6.tif", "z7.tif", "z9.tif"],
        ["a1_z1.tif", "a1_z2.tif", "a2_z1.tif", "a2_z2.tif"],
        ["a.tif", "b1.tif", "c.tif"],
        ["z1.tif", "z01.tif"],
    ],
)
def test_other_numbers_are_nobodys_business(tmp_path, names):
    assert open_slices(saved_as(tmp_path / "s", names), UM).grid.shape[0] == len(names)


def test_a_link_to_a_file_that_is_gone_is_named(tmp_path):
    folder = saved_as(tmp_path / "s", ["z0.tif", "z1.tif", "z3.tif"])
    (folder / "z2.tif").symlink_to(tmp_path / "nowhere.tif")
    with pytest.raises(MissingError, match=r"z2\.tif"):
        open_slices(folder, UM)


def test_natural_order_and_other_files(tmp_path):
    for z in (10, 2, 1, 30):
        tifffile.imwrite(tmp_path / f"z{z}.tif", np.full((2, 3), z, "u1"))
    tifffile.imwrite(tmp_path / "z3.TIFF", np.full((2, 3), 3, "u1"))
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / ".z4.tif").write_bytes(b"junk")
    (tmp_path / "sub.d").mkdir()
    stack = open_slices(str(tmp_path), UM)
    assert whole(stack)[:, 0, 0].tolist() == [1, 2, 3, 10, 30]


def test_stacks_that_follow_one_another(tmp_path):
    array = volume((14, 11, 12))
    paths = [tmp_path / f"stack_{i}.tif" for i in range(1, 15, 5)]
    for path, part in zip(paths, (array[:5], array[5:10], array[10:]), strict=True):
        tifffile.imwrite(path, part, **GREY)
    tifffile.imwrite(tmp_path / "other.tif", array[0])
    pattern = open_slices(tmp_path / "stack_*.tif", UM)
    np.testing.assert_array_equal(whole(pattern), array)
    listed = open_slices(paths[::-1], UM)
    np.testing.assert_array_equal(whole(listed)[:4], array[10:])
    assert listed.provenance["first_file"] == "stack_11.tif"


def test_single_file_and_origin(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume((1, 4, 5))[0])
    stack = open_slices(tmp_path / "a.tif", UM, (1.0, 2.0, 3.0))
    assert stack.grid.shape == (1, 4, 5)
    assert stack.grid.spacing_um == UM
    assert stack.grid.origin_um == (1.0, 2.0, 3.0)


def test_contiguous_stacks_with_one_page(tmp_path):
    """Files of more than 4 GB from ImageJ have one page and all planes behind it."""
    array = volume((5, 7, 9), "uint16")
    tifffile.imwrite(tmp_path / "shaped.tif", array, truncate=True)
    tifffile.imwrite(tmp_path / "pages.tif", array, imagej=True, metadata={"axes": "ZYX"})
    data = bytearray((tmp_path / "pages.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "pages.tif") as tif:
        order, first, second = tif.byteorder, tif.pages[0], tif.pages[1]
        struct.pack_into(f"{order}I", data, first.offset + 2 + 12 * len(first.tags), 0)
        data = data[: second.offset]
    (tmp_path / "imagej.tif").write_bytes(data)
    for name in ("shaped.tif", "imagej.tif"):
        np.testing.assert_array_equal(whole(open_slices(tmp_path / name, UM)), array)
        cut = (tmp_path / name).read_bytes()[:-20]
        (tmp_path / f"cut_{name}").write_bytes(cut)
        with pytest.raises(DataError, match=rf"cut_{name} is truncated"):
            open_slices(tmp_path / f"cut_{name}", UM)


# --- as a reader -----------------------------------------------------------------------------


def test_pickle_threads_and_dataarray(tmp_path):
    array = volume((9, 40, 30))
    folder = write_slices(tmp_path / "a", array, compression="zlib", rowsperstrip=8)
    stack = pickle.loads(pickle.dumps(open_slices(folder, UM)))
    outs = [np.zeros_like(array) for _ in range(4)]
    threads = [threading.Thread(target=stack.read_into, args=(out, (0, 0, 0))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, array)
    lazy = as_dataarray(stack, chunk=(4, 16, 16))
    np.testing.assert_array_equal(lazy.compute(), array)
    assert lazy.z.values[1] == 2.0


def test_each_segment_is_decoded_once(tmp_path, monkeypatch):
    array = volume((3, 64, 48))
    folder = write_slices(tmp_path / "a", array, compression="zlib", tile=(16, 16))
    stack = open_slices(folder, UM)
    seen = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: seen.append(at) or pread(fd, n, at))
    out = np.zeros((2, 20, 10), "u1")
    stack.read_into(out, (1, 15, 10))
    np.testing.assert_array_equal(out, array[1:, 15:35, 10:20])
    assert len(seen) == 2 * 3 * 2


def test_provenance_notices_a_change(tmp_path):
    folder = write_slices(tmp_path / "a", volume((3, 4, 5)))
    first = open_slices(folder, UM).provenance
    assert first == open_slices(folder, UM).provenance
    size = sum(p.stat().st_size for p in folder.iterdir())
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "tiff",
        "location": str(folder),
        "n_files": 3,
        "first_file": "z0.tif",
        "last_file": "z2.tif",
        "shape": [3, 4, 5],
        "dtype": "uint8",
        "total_bytes": size,
    }
    os.utime(folder / "z1.tif", ns=(0, 1))
    assert open_slices(folder, UM).provenance["fingerprint"] != first["fingerprint"]


def test_wrong_buffers_are_refused(tmp_path):
    stack = open_slices(write_slices(tmp_path / "a", volume((3, 4, 5))), UM)
    for out, start in (
        (np.zeros((1, 1, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (3, 0, 0)),
        (np.zeros((1, 5, 1), "u1"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (0, -1, 0)),
        (np.zeros((4, 5), "u1"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="slices"):
            stack.read_into(out, start)
    stack.read_into(np.zeros((0, 4, 5), "u1"), (3, 0, 0))


def test_opening_is_quick(tmp_path):
    folder = write_slices(tmp_path / "a", np.zeros((300, 8, 8), "u1"))
    open_slices(folder, UM)
    begin = time.process_time()
    open_slices(folder, UM)
    assert time.process_time() - begin < 0.6


# --- voxel size ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1.0), ("micron", 1.0), ("\\u00B5m", 1.0), ("nm", 1e-3), ("mm", 1e3)]
)
def test_spacing_of_imagej(tmp_path, unit, factor):
    path = tmp_path / "a.tif"
    meta = {"axes": "ZYX", "unit": unit, "spacing": 2.5}
    tifffile.imwrite(
        path, volume((2, 4, 5)), imagej=True, resolution=(1 / 1.17, 1 / 1.3), metadata=meta
    )
    spacing = open_slices(path).grid.spacing_um
    assert spacing == pytest.approx((2.5 * factor, 1.3 * factor, 1.17 * factor), rel=1e-12)
    assert open_slices(path, UM).grid.spacing_um == UM


def test_spacing_of_ome(tmp_path):
    path = tmp_path / "a.ome.tif"
    meta = {"axes": "ZYX", "PhysicalSizeX": 1170.0, "PhysicalSizeXUnit": "nm"}
    meta |= {"PhysicalSizeY": 1.3, "PhysicalSizeZ": 2.5}
    array = volume((3, 4, 5))
    tifffile.imwrite(path, array, ome=True, metadata=meta)
    stack = open_slices(path)
    assert stack.grid.spacing_um == (2.5, 1.3, 1.17)
    np.testing.assert_array_equal(whole(stack), array)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (300, 300), "resolutionunit": "INCH"},
        {"imagej": True, "resolution": (1, 1), "metadata": {"unit": "um"}},
        {"imagej": True, "resolution": (1, 1), "metadata": {"unit": "pixel", "spacing": 1.0}},
        {"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 1.17, "PhysicalSizeY": 1.17}},
    ],
)
def test_no_trustworthy_spacing(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", volume((1, 4, 5))[0], **options)
    with pytest.raises(RequestError, match=r"no voxel size in .*a\.tif; give it as --spacing 1.17"):
        open_slices(tmp_path / "a.tif")


def test_no_spacing_in_png(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(volume((1, 4, 5))[0]))
    with pytest.raises(RequestError, match=r"no voxel size in .*a\.png; give it as --spacing"):
        open_slices(tmp_path / "a.png")


# --- bad input ---------------------------------------------------------------------------------


def refused(error, match, location):
    with pytest.raises(error, match=match) as caught:
        open_slices(location, UM)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    refused(MissingError, r"no such file.*gone\.tif; check", tmp_path / "gone.tif")
    refused(MissingError, r"no such file.*gone\.tif; check", [tmp_path / "gone.tif"])


def test_missing_folder(tmp_path):
    refused(MissingError, r"no such file or folder: .*gone; check", tmp_path / "gone")


def test_empty_folder(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b")
    refused(MissingError, r"no files \.tif, \.tiff, \.png, \.jp2, \.j2k in", tmp_path)
    refused(MissingError, r"no files \.tif, \.tiff, \.png, \.jp2, \.j2k in", tmp_path / "*.tif")
    refused(MissingError, r"no files \.tif, \.tiff, \.png, \.jp2, \.j2k in", [])


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    refused(RequestError, r"a\.jpg has suffix '\.jpg'; allowed: \.tif", tmp_path / "a.jpg")


def test_mixed_kinds(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume((1, 4, 5))[0])
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(volume((1, 4, 5))[0]))
    refused(RequestError, r"several kinds are mixed: .*b\.png and .*a\.tif", tmp_path)


def test_other_shape(tmp_path):
    write_slices(tmp_path / "a", volume((3, 4, 5)))
    tifffile.imwrite(tmp_path / "a" / "z10.tif", volume((1, 4, 6))[0])
    refused(RequestError, r"z10\.tif is uint8 \(4, 6\).*z0\.tif is uint8 \(4, 5\)", tmp_path / "a")


def test_other_dtype(tmp_path):
    write_slices(tmp_path / "a", volume((3, 4, 5)))
    tifffile.imwrite(tmp_path / "a" / "z1.tif", volume((1, 4, 5), "uint16")[0])
    refused(RequestError, r"z1\.tif is uint16 \(4, 5\).*z0\.tif is uint8 \(4, 5\)", tmp_path / "a")


def test_other_shape_within_a_file(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(volume((1, 4, 5))[0], metadata=None)
        tif.write(volume((1, 4, 6))[0], metadata=None)
    refused(RequestError, r"page 1 of .*a\.tif is uint8 \(4, 6\)", tmp_path / "a.tif")


def test_every_truncation_is_noticed(tmp_path):
    """Wherever a file of several pages is cut, no plane goes missing in silence."""
    array = volume((3, 8, 8))
    tifffile.imwrite(tmp_path / "whole.tif", array, metadata=None, **GREY)
    data = (tmp_path / "whole.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "whole.tif") as tif:
        needed = tif.pages.next_page_offset + 4  # what follows are only texts of the last page
    cut = tmp_path / "cut.tif"
    for size in (*range(1, needed, 7), needed - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.tif is (truncated|not a readable TIFF)"):
            open_slices(cut, UM)
    cut.write_bytes(data[:needed])
    np.testing.assert_array_equal(whole(open_slices(cut, UM)), array)


def test_truncated_slice(tmp_path):
    write_slices(tmp_path / "a", volume((3, 40, 50)), compression="zlib")
    path = tmp_path / "a" / "z1.tif"
    path.write_bytes(path.read_bytes()[:-100])
    refused(DataError, r"z1\.tif is truncated: it ends at byte \d+, the file", tmp_path / "a")


def test_damaged_strip(tmp_path):
    write_slices(tmp_path / "a", volume((2, 40, 50)), compression="zlib")
    path = tmp_path / "a" / "z1.tif"
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        at = tif.pages[0].dataoffsets[0]
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    stack = open_slices(tmp_path / "a", UM)
    with pytest.raises(DataError, match=r"z1\.tif cannot be decoded, it is damaged"):
        whole(stack)


def test_zero_bytes(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    refused(DataError, r"a\.tif is empty \(0 bytes\)", tmp_path / "a.tif")


def test_not_a_tiff(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"hello, world" * 9)
    refused(DataError, r"a\.tif is not a readable TIFF: not a TIFF file", tmp_path / "a.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_rgb(tmp_path, planar):
    image = volume((6, 7, 3)) if planar == "contig" else volume((3, 6, 7))
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig=planar)
    refused(RequestError, r"a\.tif is a colour or multi-channel image \(.*S=3", tmp_path / "a.tif")


def test_grey_and_alpha(tmp_path):
    image = volume((6, 7, 2))
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    refused(RequestError, r"multi-channel image \(Y=6 X=7 S=2\); convert", tmp_path / "a.tif")


def test_planar_samples(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", volume((4, 6, 7)), photometric="minisblack", planarconfig="separate"
    )
    refused(RequestError, r"multi-channel image \(S=4 Y=6 X=7\); convert", tmp_path / "a.tif")


def test_colour_palette(tmp_path):
    colormap = np.zeros((3, 256), "u2")
    colormap[0] = np.arange(256) * 257
    tifffile.imwrite(
        tmp_path / "a.tif", volume((1, 6, 7))[0], photometric="palette", colormap=colormap
    )
    refused(RequestError, r"a\.tif has a colour palette.*save it without", tmp_path / "a.tif")


def test_complex_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), "c8"))
    refused(RequestError, r"a\.tif holds .*allowed: integers and floats", tmp_path / "a.tif")


def test_sgi_volume(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume((16, 32, 32)), volumetric=True, tile=(16, 16, 16))
    refused(RequestError, r"a\.tif .*Z=16 Y=32 X=32", tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("axes", "shape", "found"),
    [("CYX", (2,), "C=2"), ("TZYX", (3, 2), "T=3 Z=2"), ("TYX", (3,), "T=3")],
)
def test_channels_and_times(tmp_path, axes, shape, found):
    array = volume((*shape, 4, 5))
    for kind in ("ome", "imagej"):
        path = tmp_path / f"{kind}.tif"
        tifffile.imwrite(path, array, metadata={"axes": axes}, **{kind: True})
        refused(RequestError, rf"{kind}\.tif has the axes .*{found.split()[0]}", path)


def test_four_dimensions(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", volume((2, 3, 4, 5)), **GREY)
    refused(RequestError, r"a\.tif has the axes Q=2 Q=3", tmp_path / "a.tif")


def test_two_ome_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for _ in range(2):
            tif.write(volume((2, 4, 5)), metadata={"axes": "ZYX"})
    refused(RequestError, r"a\.ome\.tif holds 2 images", tmp_path / "a.ome.tif")


def test_vanished_file(tmp_path):
    stack = open_slices(write_slices(tmp_path / "a", volume((3, 4, 5))), UM)
    (tmp_path / "a" / "z1.tif").unlink()
    with pytest.raises(DataError, match=r"z1\.tif was there at opening, now: No such file"):
        whole(stack)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_changed_file(tmp_path, compression):
    folder = write_slices(tmp_path / "a", volume((3, 4, 5)), compression=compression)
    stack = open_slices(folder, UM)
    whole(stack)
    path = folder / "z2.tif"
    tifffile.imwrite(path, np.zeros((4, 5), "u1"), compression="lzw")
    os.utime(path, ns=(0, 1))
    with pytest.raises(DataError, match=r"z2\.tif has changed since it was opened"):
        whole(stack)
    assert not whole(open_slices(folder, UM))[2].any()


# --- real data -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slice_z309.tif", "roi_z309.tif"])
def test_real_slice(name):
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"needs ../shared/data/prasad2020/{name}")
    stack = open_slices(path, (1.17, 1.17, 1.17))
    assert stack.grid.shape == (1, 1420, 5805)
    assert stack.unit == (1, 142, 5805)
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(whole(stack)[0], expected)
    out = np.zeros((1, 256, 256), np.uint8)
    stack.read_into(out, (0, 500, 5000))
    np.testing.assert_array_equal(out[0], expected[500:756, 5000:5256])


@pytest.mark.parametrize("other", [np.float16, np.int16])
def test_files_of_one_size_are_not_taken_for_alike(tmp_path, other):
    """The tags of each file count, though one that is the same but for its pixels is not read."""
    voxels = np.arange(3 * 6 * 8, dtype=np.int16).reshape(3, 6, 8)
    for z, plane in enumerate(voxels):
        plane = plane.view(other) if z == 2 else plane
        # Rows and columns change places: the same bytes, but for the tags.
        shape = plane.reshape(8, 6) if z == 2 and other == np.int16 else plane
        tifffile.imwrite(tmp_path / f"{z}.tif", shape, metadata=None)
    assert len({p.stat().st_size for p in tmp_path.iterdir()}) == 1
    with pytest.raises(RequestError, match=rf"{tmp_path}/2.tif is (float16 \(6|int16 \(8)"):
        open_slices(tmp_path, (1, 1, 1))
    (tmp_path / "2.tif").unlink()
    stack = open_slices(tmp_path, (1, 1, 1))
    out = np.empty((2, 6, 8), np.int16)
    stack.read_into(out, (0, 0, 0))
    assert (out == voxels[:2]).all()


def test_a_file_that_announces_another_page_is_read_like_no_other(tmp_path):
    plane = np.zeros((6, 8), np.uint8)
    for z in range(3):
        tifffile.imwrite(tmp_path / f"{z}.tif", plane, metadata=None)
    data = bytearray((tmp_path / "1.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "1.tif") as tif:
        data[tif.pages.next_page_offset] = 7
    (tmp_path / "1.tif").write_bytes(data)
    with pytest.raises(DataError, match=rf"{tmp_path}/1.tif"):
        open_slices(tmp_path, (1, 1, 1))
