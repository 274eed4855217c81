"""MetaImage and NRRD against what SimpleITK writes and reads."""

import gzip
import os
import zlib

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.reader import read
from thc_dask.sources.labelmap import claims, open_labelmap

UM = (2.0, 1.3, 1.17)
SUFFIXES = [".mha", ".mhd", ".nrrd", ".nhdr"]
TURNED = (0, 1, 0, -1, 0, 0, 0, 0, 1)


def whole(reader):
    return read(reader, reader.grid.extent)


def noise(shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def saved(path, array, packed=False, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    """Write (z, y, x) voxels by SimpleITK."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing([um / 1000 for um in reversed(UM)])
    image.SetOrigin((0.1, 0.2, 0.3))
    image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path), useCompression=packed)
    return path


def written(path, lines, data=b"", end="\n"):
    path.write_bytes(end.join([*lines, ""]).encode() + data)
    return path


def metaimage(path, data=b"", end="\n", **fields):
    """Write a MetaImage by hand: 3 x 4 x 5 voxels (z, y, x)."""
    given = {
        "ObjectType": "Image", "NDims": 3, "DimSize": "5 4 3", "ElementSpacing": "0.1 0.2 0.3",
        "ElementType": "MET_UCHAR", "ElementDataFile": "LOCAL", **fields,
    }  # fmt: skip
    given["ElementDataFile"] = given.pop("ElementDataFile")  # the last
    lines = [f"{k} = {v}" for k, v in given.items() if v is not None]
    return written(path, lines, data, end)


def nrrd(path, data=b"", end="\n", **fields):
    """Write an NRRD file by hand: 3 x 4 x 5 voxels (z, y, x)."""
    given = {
        "type": "uchar", "dimension": 3, "sizes": "5 4 3", "spacings": "0.1 0.2 0.3",
        "encoding": "raw", **{k.replace("_", " "): v for k, v in fields.items()},
    }  # fmt: skip
    lines = [f"{k}: {v}" for k, v in given.items() if v is not None]
    return written(path, ["NRRD0004", "# by hand", *lines, "a key:=type: float", ""], data, end)


VOXELS = noise((3, 4, 5))
BY_HAND = [(metaimage, "a.mha"), (nrrd, "a.nrrd")]

# --- the same voxels as SimpleITK reads ---------------------------------------------------------


@settings(max_examples=80)
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
        st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 30)),
    ),
    suffix=st.sampled_from(SUFFIXES),
    packed=st.booleans(),
    data=st.data(),
)
def test_random_blocks(tmp_path_factory, array, suffix, packed, data):
    path = saved(tmp_path_factory.mktemp("itk") / f"a{suffix}", array, packed)
    reader = open_labelmap(path)
    assert (reader.dtype, reader.grid.shape) == (array.dtype, array.shape)
    assert (reader.grid.spacing_um, reader.grid.origin_um) == (UM, (300, 200, 100))
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(array.shape, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    out = np.zeros([n + 3 for n in shape], reader.dtype)[1:-2, 2:-1, 1:-2]
    reader.read_into(out, start)
    np.testing.assert_array_equal(out, array[box])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_orientation_and_origin_as_in_nifti(tmp_path, suffix):
    reader = open_labelmap(saved(tmp_path / f"a{suffix}", VOXELS, direction=TURNED))
    nifti = open_labelmap(saved(tmp_path / "a.nii", VOXELS, direction=TURNED))
    assert reader.grid == nifti.grid
    assert reader.grid.origin_um == (300, 100, -200)
    assert reader.provenance["orientation"] == nifti.provenance["orientation"] == "ALS"
    np.testing.assert_array_equal(whole(reader), VOXELS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tilted_axes_are_warned_of(tmp_path, suffix):
    c, s = np.cos(0.1), np.sin(0.1)
    path = saved(tmp_path / f"a{suffix}", VOXELS, direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    with pytest.warns(UserWarning, match=rf"axes of .*a\{suffix} are turned by 5\.7 degrees"):
        reader = open_labelmap(path)
    np.testing.assert_allclose(reader.grid.spacing_um, UM, rtol=1e-12)
    np.testing.assert_array_equal(whole(reader), VOXELS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plane(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(VOXELS[0])
    image.SetSpacing((0.00117, 0.0013))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    reader = open_labelmap(tmp_path / f"a{suffix}")
    assert (reader.grid.shape, reader.grid.spacing_um) == ((1, 4, 5), (1.3, 1.3, 1.17))
    np.testing.assert_array_equal(whole(reader)[0], VOXELS[0])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colours_are_refused(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(noise((3, 4, 5, 3)), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    refused(RequestError, r"has several channels|has shape \(3, 5, 4, 3\)", tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_both_files_count(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", VOXELS)
    raw = tmp_path / "a.raw"
    first = open_labelmap(path).provenance
    assert first["kind"] == {".mhd": "metaimage", ".nhdr": "nrrd"}[suffix]
    assert first["location"] == str(path)
    assert first["total_bytes"] == path.stat().st_size + raw.stat().st_size
    for file in (path, raw):
        os.utime(file, ns=(0, 1))
        now = open_labelmap(path).provenance
        assert now["fingerprint"] != first["fingerprint"]
        first = now
    raw.write_bytes(raw.read_bytes()[:-1])
    refused(DataError, r"a\.raw is truncated: its \(3, 4, 5\) uint8 .* need 60 bytes, it has", path)
    raw.unlink()
    refused(MissingError, r"no such file: .*a\.raw; check the path", path)


# --- what other programs write --------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("write", "name"), BY_HAND)
def test_ends_of_lines_and_suffixes_in_capitals(tmp_path, write, name, end):
    reader = open_labelmap(write(tmp_path / name.upper(), VOXELS.tobytes(), end))
    np.testing.assert_array_equal(whole(reader), VOXELS)
    assert reader.grid.spacing_um == (300, 200, 100)
    assert reader.grid.origin_um == (0, 0, 0)
    assert reader.provenance["orientation"] is None


def test_metaimage_types_are_those_of_itk(tmp_path):
    for name, code in [
        ("MET_CHAR", "i1"), ("MET_SHORT", "i2"), ("MET_USHORT", "u2"), ("MET_INT", "i4"),
        ("MET_LONG", "i4"), ("MET_ULONG", "u4"), ("MET_LONG_LONG", "i8"), ("MET_DOUBLE", "f8"),
    ]:  # fmt: skip
        for order, big in (("<", "False"), (">", "True")):
            array = noise((3, 4, 5), order + code)
            path = metaimage(
                tmp_path / "a.mha", array.tobytes(), ElementType=name, BinaryDataByteOrderMSB=big,
                BinaryData="True",
            )  # fmt: skip
            reader = open_labelmap(path)
            np.testing.assert_array_equal(whole(reader), array)
            image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
            np.testing.assert_array_equal(image, array)
            assert reader.dtype == image.dtype


@pytest.mark.parametrize("skip", [0, 7, -1])
def test_metaimage_headers_to_skip(tmp_path, skip):
    (tmp_path / "a.raw").write_bytes(b"x" * abs(skip * 7) + VOXELS.tobytes())
    path = metaimage(tmp_path / "a.mhd", HeaderSize=skip * 7 if skip > 0 else skip,
                     BinaryData="True", ElementDataFile="a.raw")  # fmt: skip
    np.testing.assert_array_equal(whole(open_labelmap(path)), VOXELS)
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(image, VOXELS)


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        ({"ElementSpacing": None, "ElementSize": "4 5 6"}, (6000, 5000, 4000)),
        ({"DistanceUnits": "um"}, (0.3, 0.2, 0.1)),
        ({"DistanceUnits": "?"}, (300, 200, 100)),
        ({"ElementSpacing": "-0.1 0.2 0.3"}, (300, 200, 100)),
    ],
)
def test_metaimage_voxel_sizes(tmp_path, fields, spacing):
    path = metaimage(tmp_path / "a.mha", VOXELS.tobytes(), **fields)
    assert open_labelmap(path).grid.spacing_um == spacing


@pytest.mark.parametrize(
    ("fields", "spacing", "orientation", "origin"),
    [
        ({}, (300, 200, 100), None, (0, 0, 0)),
        ({"units": '"um" "um" "um"'}, (0.3, 0.2, 0.1), None, (0, 0, 0)),
        (
            {
                "spacings": None, "space": "RAS", "space_units": '"um" "um" "um"',
                "space_directions": "(0,2,0) (-3,0,0) (0,0,4)", "space_origin": "(10,20,30)",
            },
            (4, 3, 2), "ALS", (30, -10, 20),
        ),
        (
            {
                "spacings": None, "space": "left-anterior-superior",
                "space_directions": "(2,0,0) (0,3,0) (0,0,-4)", "space_origin": "(1,2,3)",
            },
            (4000, 3000, 2000), "LAI", (-3000, 2000, 1000),
        ),
        (
            {
                "spacings": None, "space_dimension": 3,
                "space_directions": "(2,0,0) (0,3,0) (0,0,4)", "space_origin": "(1,2,3)",
            },
            (4000, 3000, 2000), None, (3000, 2000, 1000),
        ),
    ],
)  # fmt: skip
def test_nrrd_frames(tmp_path, fields, spacing, orientation, origin):
    reader = open_labelmap(nrrd(tmp_path / "a.nrrd", VOXELS.tobytes(), **fields))
    assert reader.grid.spacing_um == spacing
    assert reader.grid.origin_um == origin
    assert reader.provenance["orientation"] == orientation


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("signed char", "i1"), ("unsigned char", "u1"), ("uint8_t", "u1"), ("short int", "<i2"),
        ("signed short int", "<i2"), ("unsigned short int", ">u2"), ("uint16", ">u2"),
        ("int", "<i4"), ("signed int", ">i4"), ("unsigned int", "<u4"), ("longlong", "<i8"),
        ("unsigned long long int", ">u8"), ("signed long long", "<i8"), ("float", ">f4"),
        ("double", "<f8"),
    ],
)  # fmt: skip
def test_nrrd_types_are_those_of_itk(tmp_path, name, code):
    array = noise((3, 4, 5), code)
    endian = "big" if code[0] == ">" else "little"
    path = nrrd(tmp_path / "a.nrrd", array.tobytes(), type=name, endian=endian)
    np.testing.assert_array_equal(whole(open_labelmap(path)), array)
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), array
    )


@pytest.mark.parametrize("skip", [0, 9, -1])
def test_nrrd_bytes_to_skip(tmp_path, skip):
    path = nrrd(tmp_path / "a.nrrd", b"x" * abs(skip) + VOXELS.tobytes(), byte_skip=skip)
    np.testing.assert_array_equal(whole(open_labelmap(path)), VOXELS)
    (tmp_path / "a.bin").write_bytes(b"x" * abs(skip) + VOXELS.tobytes())
    path = nrrd(tmp_path / "a.nhdr", byte_skip=skip, data_file="a.bin")
    np.testing.assert_array_equal(whole(open_labelmap(path)), VOXELS)
    if skip >= 0:
        data = gzip.compress(b"x" * skip + VOXELS.tobytes())
        path = nrrd(tmp_path / "a.nrrd", data, byte_skip=skip, encoding="gz")
        np.testing.assert_array_equal(whole(open_labelmap(path)), VOXELS)


def test_a_header_alone_needs_no_blank_line(tmp_path):
    (tmp_path / "a.bin").write_bytes(VOXELS.tobytes())
    path = nrrd(tmp_path / "a.nhdr", data_file="a.bin")
    path.write_bytes(path.read_bytes().strip())
    np.testing.assert_array_equal(whole(open_labelmap(path)), VOXELS)


def test_a_millimeter_is_warned_of(tmp_path):
    for write, name, key in ((metaimage, "a.mha", "ElementSpacing"), (nrrd, "a.nrrd", "spacings")):
        path = write(tmp_path / name, VOXELS.tobytes(), **{key: "1 1 1"})
        with pytest.warns(UserWarning, match=r"gives voxels of 1 mm, .*--spacing"):
            open_labelmap(path)
        assert open_labelmap(path, UM).grid.spacing_um == UM


# --- bad input -----------------------------------------------------------------------------------


def refused(error, match, path, spacing_um=None):
    with pytest.raises(error, match=match) as caught:
        open_labelmap(path, spacing_um)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("write", "name"), BY_HAND)
def test_every_truncation_is_noticed(tmp_path, write, name):
    path = write(tmp_path / name, VOXELS.tobytes())
    data = path.read_bytes()
    for size in [*range(1, len(data), 3), len(data) - 1]:
        path.write_bytes(data[:size])
        what = r"a\.\w+ (is truncated|is not a|makes no sense)|no such file: .*/(L|LO|LOC|LOCA);"
        refused((DataError, MissingError), rf"(metaimage|nrrd): .*{what}", path)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".mha", zlib.compress), (".nrrd", gzip.compress), (".nrrd", zlib.compress)],
)
def test_packed_voxels_that_are_truncated_or_damaged(tmp_path, suffix, pack):
    voxels = noise((30, 40, 50))
    data = pack(voxels.tobytes())
    if suffix == ".mha":
        fields = {"write": metaimage, "DimSize": "50 40 30", "CompressedData": "True"}
    else:
        fields = {"write": nrrd, "sizes": "50 40 30", "encoding": "gzip"}
    write = fields.pop("write")
    path = tmp_path / f"a{suffix}"
    np.testing.assert_array_equal(whole(open_labelmap(write(path, data, **fields))), voxels)
    reader = open_labelmap(write(path, data[: len(data) // 2], **fields))
    with pytest.raises(DataError, match=rf"a\{suffix} is truncated: it ends \d+ bytes after"):
        whole(reader)
    reader = open_labelmap(write(path, data[:9000] + b"odd" * 50 + data[9150:], **fields))
    with pytest.raises(DataError, match=rf"a\{suffix} is damaged at byte \d+ or before"):
        whole(reader)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_not_of_the_format(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"hello, world" * 50)
    refused(DataError, rf"a\{suffix} is not an? (MetaImage|NRRD file)", tmp_path / f"a{suffix}")


META = [
    ({"ElementType": "MET_UCHAR_ARRAY"}, DataError, "makes no sense: ElementType MET_UCHAR_ARRAY"),
    ({"ElementType": None}, DataError, "makes no sense: no ElementType"),
    ({"DimSize": "5 4"}, DataError, "makes no sense: 3 axes, but DimSize 5 4"),
    ({"DimSize": "5 4 x"}, DataError, "makes no sense: invalid literal"),
    ({"DimSize": "5 4 0"}, RequestError, r"has shape \(5, 4, 0\); give one volume"),
    ({"NDims": 4, "DimSize": "5 2 3 2"}, RequestError, r"has shape \(5, 2, 3, 2\); give one"),
    ({"ElementNumberOfChannels": 3}, RequestError, "has several channels or voxels as text"),
    ({"BinaryData": "False"}, RequestError, "has several channels or voxels as text"),
    ({"ElementDataFile": "LIST"}, RequestError, "lie in several files; save it as one"),
    ({"ElementDataFile": "a%03d.raw 1 3 1"}, RequestError, "lie in several files; save it as one"),
    ({"ElementDataFile": "b.raw"}, MissingError, r"no such file: .*b\.raw"),
    ({"ElementDataFile": "b", "CompressedData": "T", "HeaderSize": -1}, DataError, "HeaderSize -1"),
    ({"ElementSpacing": None}, RequestError, r"no voxel size in .*a\.mha; give it as --spacing"),
    ({"ElementSpacing": "0 1 1"}, RequestError, r"\(its header says 0 x 1 x 1 mm\); give it as"),
    ({"DistanceUnits": "px"}, RequestError, r"says 0\.1 x 0\.2 x 0\.3 px\); give it as --spacing"),
    ({"TransformMatrix": "1 0 x"}, DataError, "makes no sense: could not convert"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "error", "says"), META, ids=str)
def test_metaimage_headers_that_cannot_be_read(tmp_path, fields, error, says):
    (tmp_path / "b").write_bytes(zlib.compress(VOXELS.tobytes()))
    refused(
        error, f"metaimage: .*{says}", metaimage(tmp_path / "a.mha", VOXELS.tobytes(), **fields)
    )


NRRD = [
    ({"type": "block"}, DataError, "makes no sense: type block"),
    ({"type": None}, DataError, "makes no sense: no type"),
    ({"type": "short"}, DataError, "makes no sense: no endian"),
    ({"type": "short", "endian": "odd"}, DataError, "makes no sense: endian odd"),
    ({"sizes": "5 4"}, DataError, "makes no sense: dimension 3, but sizes 5 4"),
    ({"sizes": "5 4 x"}, DataError, "makes no sense: invalid literal"),
    ({"dimension": 4, "sizes": "2 5 2 3"}, RequestError, r"has shape \(2, 5, 2, 3\); give one"),
    ({"encoding": "bzip2"}, RequestError, "has encoding bzip2, line skip 0; save it with encoding"),
    ({"line skip": 2}, RequestError, "has encoding raw, line skip 2; save it with encoding"),
    ({"byte skip": -2}, DataError, "makes no sense: byte skip -2"),
    ({"data file": "LIST"}, RequestError, "lie in several files; save it as one"),
    ({"data file": "b.raw"}, MissingError, r"no such file: .*b\.raw"),
    ({"spacings": None}, RequestError, r"no voxel size in .*a\.nrrd; give it as --spacing"),
    ({"spacings": "nan 1 1"}, RequestError, r"\(its header says nan x 1 x 1 mm\); give it as"),
    ({"units": '"mm" "mm" "um"'}, RequestError, r"says 0\.1 x 0\.2 x 0\.3 of no unit\); give it"),
    ({"space directions": "none (0,1,0) (0,0,1)"}, RequestError, "says nan x 1 x 1 mm"),
    ({"space directions": "(1,0,0,5) (0,1,0) (0,0,1)"}, DataError, "makes no sense: .*"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "error", "says"), NRRD, ids=str)
def test_nrrd_headers_that_cannot_be_read(tmp_path, fields, error, says):
    refused(error, f"nrrd: .*{says}", nrrd(tmp_path / "a.nrrd", VOXELS.tobytes(), **fields))


def test_nrrd_without_a_blank_line(tmp_path):
    path = nrrd(tmp_path / "a.nrrd")
    path.write_bytes(path.read_bytes().strip())
    refused(DataError, r"a\.nrrd makes no sense: no blank line before the voxels", path)


def test_which_names_are_claimed():
    assert all(claims(f"folder/a{suffix}") for suffix in [*SUFFIXES, ".nii", ".NII.GZ"])
    assert not any(claims(name) for name in ["a.tif", "a.gz", "nii", "a.nii.bz2", "a.h5:/nii"])
