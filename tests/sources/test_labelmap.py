"""NIfTI against nibabel and numpy, and what all label maps have in common."""

import gzip
import os
import pickle
import struct
import sys
import threading
import warnings
import zlib

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask import convert, verify
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.labels import labels
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.labelmap import open_labelmap, packed

UM = (2.0, 1.3, 1.17)
AFFINE = np.diag([-0.00117, -0.0013, 0.002, 1.0])


def whole(reader):
    return read(reader, reader.grid.extent)


def noise(shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


def image_of(array, affine=AFFINE, unit="mm", two=False):
    """Return (z, y, x) voxels as an image of nibabel's, x fastest."""
    kind = nibabel.Nifti2Image if two else nibabel.Nifti1Image
    image = kind(array.T, affine, dtype=array.dtype)
    image.header.set_xyzt_units(unit)
    return image


def saved(path, array, **options):
    nibabel.save(image_of(array, **options), path)
    return path


def patched(path, **fields):
    """Change fields of a NIfTI-1 header in place."""
    data = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock
    path.write_bytes(data)
    return path


# --- the same voxels as nibabel reads --------------------------------------------------------


@settings(max_examples=80)
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]),
        st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 30)),
    ),
    order=st.sampled_from("<>"),
    two=st.booleans(),
    suffix=st.sampled_from([".nii", ".nii.gz", ".NII"]),
    data=st.data(),
)
def test_random_blocks(tmp_path_factory, array, order, two, suffix, data):
    path = tmp_path_factory.mktemp("nifti") / f"a{suffix}"
    image = image_of(array, two=two)
    header = image.header.as_byteswapped(order)
    nibabel.save(type(image)(array.T, AFFINE, header, dtype=array.dtype), path)
    reader = open_labelmap(path)
    assert (reader.dtype, reader.grid.shape) == (array.dtype, array.shape)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(array.shape, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    out = np.zeros([n + 3 for n in shape], reader.dtype)[1:-2, 2:-1, 1:-2]
    reader.read_into(out, start)
    np.testing.assert_array_equal(out, array[box])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_values_are_those_of_nibabel(tmp_path, dtype, suffix):
    array = noise((3, 4, 5), dtype)
    image = image_of(array)
    image.header.set_slope_inter(0.37, -12.5)
    path = tmp_path / f"a{suffix}"
    with open(path, "wb") as file:
        file = gzip.GzipFile(fileobj=file, mode="wb") if suffix == ".nii.gz" else file
        image.header["vox_offset"] = 352
        file.write(image.header.binaryblock + bytes(4) + array.tobytes())
        file.close()
    reader = open_labelmap(path)
    assert reader.dtype == (np.float64 if dtype in ("i4", "f8") else np.float32)
    expected = np.asarray(nibabel.load(path).dataobj, np.float64).T
    np.testing.assert_array_equal(whole(reader), expected.astype(reader.dtype))
    out = np.zeros((1, 2, 3), reader.dtype)
    reader.read_into(out, (2, 1, 1))
    np.testing.assert_array_equal(out, expected[2:, 1:3, 1:4].astype(reader.dtype))


@pytest.mark.parametrize("slope", [(1, 0), (0, 5), (np.nan, 0)])
def test_a_scale_of_nothing_keeps_the_type(tmp_path, slope):
    path = saved(tmp_path / "a.nii", noise((3, 4, 5), "i2"))
    patched(path, scl_slope=slope[0], scl_inter=slope[1])
    reader = open_labelmap(path)
    assert reader.dtype == np.int16
    np.testing.assert_array_equal(whole(reader), noise((3, 4, 5), "i2"))


def test_planes_and_axes_of_one_voxel(tmp_path):
    array = noise((1, 1, 3, 4, 5))
    reader = open_labelmap(saved(tmp_path / "a.nii", array))
    assert reader.grid.shape == (3, 4, 5)
    np.testing.assert_array_equal(whole(reader), array[0, 0])
    reader = open_labelmap(saved(tmp_path / "b.nii", array[0, 0, 0]))
    assert reader.grid.shape == (1, 4, 5)
    assert reader.grid.spacing_um == (1.3, 1.3, 1.17)
    np.testing.assert_array_equal(whole(reader)[0], array[0, 0, 0])


# --- what the header says -------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-6), ("mm", 1e-3), ("micron", 1.0)])
def test_spacing_in_the_units_of_the_file(tmp_path, unit, factor):
    affine = np.diag([1.17 * factor, 1.3 * factor, 2 * factor, 1])
    affine[:3, 3] = np.array([5.85, -6.5, 0.009]) * factor
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)), affine=affine, unit=unit)
    grid = open_labelmap(path).grid
    assert (grid.spacing_um, grid.origin_um) == (UM, (0.009, -6.5, 5.85))
    # Who gives another size knows the file's to be wrong, and with it where it puts the voxels.
    other = open_labelmap(path, (4.0, 2.6, 11.7)).grid
    assert other.spacing_um == (4.0, 2.6, 11.7)
    np.testing.assert_allclose(other.origin_um, (0.018, -13, 58.5), rtol=1e-12)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "ASL", "SPR", "IRA", "PIL"])
def test_voxels_stay_as_stored_and_orientation_is_told(tmp_path, axes):
    array = noise((3, 4, 5))
    points_to = dict(zip("RASLPI", [*np.eye(3), *-np.eye(3)], strict=True))
    affine = np.eye(4)
    affine[:3, :3] = 0.01 * np.stack([points_to[axis] for axis in axes], axis=1)
    affine[:3, 3] = 0.1, 0.2, 0.3
    reader = open_labelmap(saved(tmp_path / "a.nii.gz", array, affine=affine))
    assert reader.provenance["orientation"] == axes == "".join(nibabel.aff2axcodes(affine))
    np.testing.assert_array_equal(whole(reader), array)
    # Along the direction of each axis: x of an image that runs to the left grows to the left.
    along = {"R": 100, "L": -100, "A": 200, "P": -200, "S": 300, "I": -300}
    assert reader.grid.origin_um == tuple(along[axis] for axis in reversed(axes))


def test_without_a_space(tmp_path):
    path = patched(saved(tmp_path / "a.nii", noise((3, 4, 5))), sform_code=0, qform_code=0)
    reader = open_labelmap(path)
    assert reader.provenance["orientation"] is None
    assert reader.grid.spacing_um == UM
    assert reader.grid.origin_um == (0, 0, 0)


def test_the_rotation_of_a_quaternion(tmp_path):
    image = image_of(noise((3, 4, 5)))
    image.set_sform(None, 0)
    affine = np.array(
        [[0, 0.0013, 0, 0.1], [0.00117, 0, 0, 0.2], [0, 0, -0.002, 0.3], [0, 0, 0, 1]]
    )
    image.set_qform(affine, 1)
    nibabel.save(image, tmp_path / "a.nii")
    reader = open_labelmap(tmp_path / "a.nii")
    assert reader.provenance["orientation"] == "ARI"
    assert reader.grid.spacing_um == UM
    np.testing.assert_allclose(reader.grid.origin_um, (-300, 100, 200), rtol=1e-5)


@pytest.mark.parametrize("degrees", [0.9, 5.0, 30.0])
def test_tilted_axes_are_warned_of(tmp_path, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ np.diag(
        [0.1, 0.1, 0.1, 1]
    )
    array = noise((3, 4, 5))
    path = saved(tmp_path / "a.nii", array, affine=affine)
    if degrees > 1:
        with pytest.warns(UserWarning, match=rf"axes of .*a\.nii are turned by {degrees:.1f} deg"):
            reader = open_labelmap(path)
    else:
        reader = open_labelmap(path)
    assert reader.provenance["orientation"] == "RAS"
    np.testing.assert_array_equal(whole(reader), array)


def test_a_scale_out_of_single_precision(tmp_path):
    path = patched(saved(tmp_path / "a.nii", np.full((1, 1, 2), 2, "u1")), scl_slope=3e38)
    assert whole(open_labelmap(path)).tolist() == [[[np.inf, np.inf]]]


def test_a_file_with_two_voxel_sizes_is_warned_of(tmp_path):
    path = patched(saved(tmp_path / "a.nii", noise((3, 4, 5))), srow_z=(0, 0, 0.004, 0))
    with pytest.warns(UserWarning, match=r"x 0\.004, its pixdim .* x 0\.002, which is"):
        assert open_labelmap(path).grid.spacing_um == UM


def test_a_millimeter_is_warned_of(tmp_path):
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)), affine=np.eye(4))
    with pytest.warns(UserWarning, match=r"a\.nii gives voxels of 1 mm, .*--spacing"):
        assert open_labelmap(path).grid.spacing_um == (1000, 1000, 1000)
    assert open_labelmap(path, UM).grid.spacing_um == UM
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)), affine=np.eye(4), unit="micron")
    assert open_labelmap(path).grid.spacing_um == (1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"xyzt_units": 0}, "0.00117 x 0.0013 x 0.002 of no unit"),
        ({"xyzt_units": 5}, "of no unit"),
        ({"pixdim": (1, 0, 0, 0, 0, 0, 0, 0), "sform_code": 0}, "0 x 0 x 0 mm"),
        ({"pixdim": (1, 1, np.nan, 1, 0, 0, 0, 0), "sform_code": 0}, "1 x nan x 1 mm"),
        ({"pixdim": (1, 1, np.inf, 1, 0, 0, 0, 0), "sform_code": 0}, "1 x inf x 1 mm"),
    ],
)
def test_no_voxel_size(tmp_path, fields, says):
    path = patched(saved(tmp_path / "a.nii", noise((3, 4, 5))), **fields)
    refused(RequestError, rf"no voxel size in .*a\.nii \(.* {says}\); give it as --spacing", path)
    reader = open_labelmap(path, UM)
    assert reader.grid.spacing_um == UM
    assert np.isfinite(reader.grid.origin_um).all()


@pytest.mark.parametrize("row", [(np.nan, 0, 0, 0), (0, 0, 0, 5)])
def test_an_affine_that_makes_no_sense_is_none(tmp_path, row):
    path = patched(saved(tmp_path / "a.nii", noise((3, 4, 5))), srow_x=row)
    with pytest.warns(UserWarning, match="affine makes voxels of"):
        reader = open_labelmap(path)
    assert reader.provenance["orientation"] is None
    assert reader.grid.origin_um == (0, 0, 0)


# --- packed voxels ----------------------------------------------------------------------------


@pytest.fixture
def small_steps(monkeypatch):
    """Marks close together, so that a small file has many."""
    monkeypatch.setattr(packed, "STEP_BYTES", 3000)
    monkeypatch.setattr(packed, "READ_BYTES", 700)
    packed._stream.cache_clear()
    yield
    packed._stream.cache_clear()


def test_packed_in_any_order(tmp_path, small_steps):
    array = noise((40, 30, 50), "u2")
    reader = open_labelmap(saved(tmp_path / "a.nii.gz", array))
    assert reader.unit == (1, 30, 50)
    rng = np.random.default_rng(1)
    for z in [39, 0, 20, *rng.permutation(40), 0]:
        out = np.zeros((min(3, 40 - z), 7, 11), "u2")
        reader.read_into(out, (z, 20, 30))
        np.testing.assert_array_equal(out, array[z : z + 3, 20:27, 30:41])


def test_packed_is_not_unpacked_again_from_its_beginning(tmp_path, small_steps, monkeypatch):
    array = noise((40, 30, 50))
    path = saved(tmp_path / "a.nii.gz", array)
    reader = open_labelmap(path)
    np.testing.assert_array_equal(whole(reader), array)
    places = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: places.append(args[2]) or pread(*args))
    out = np.zeros((1, 30, 50), "u1")
    reader.read_into(out, (30, 0, 0))
    np.testing.assert_array_equal(out[0], array[30])
    assert min(places) > path.stat().st_size / 2
    # what a mark is early, what a plane holds, and what is read at once
    assert len(places) * 700 <= 3000 + 1500 + 2 * 700


def test_what_is_remembered_is_bounded(tmp_path, small_steps, monkeypatch):
    monkeypatch.setattr(packed, "MOST_MARKS", 4)
    array = noise((40, 30, 50))
    reader = open_labelmap(saved(tmp_path / "a.nii.gz", array))
    assert reader.unit == (10, 30, 50)
    np.testing.assert_array_equal(whole(reader), array)
    step = reader.storage.plain.end // 4
    stream = packed._stream(reader.file, 0, step, os.getpid())
    assert 3 <= len(stream._marks) <= 5


def test_threads_share_one_way_through_a_packed_file(tmp_path, small_steps):
    array = noise((64, 30, 50))
    reader = pickle.loads(pickle.dumps(open_labelmap(saved(tmp_path / "a.nii.gz", array))))
    outs = [np.zeros((8, 30, 50), "u1") for _ in range(8)]
    threads = [
        threading.Thread(target=reader.read_into, args=(out, (8 * i, 0, 0)))
        for i, out in reversed(list(enumerate(outs)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(np.concatenate(outs), array)
    lazy = as_dataarray(reader, chunk=(8, 16, 50))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), array)


def test_gzip_of_many_members_and_what_follows_it(tmp_path, small_steps):
    array = noise((20, 30, 50))
    data = saved(tmp_path / "a.nii", array).read_bytes()
    members = [gzip.compress(data[i : i + 999]) for i in range(0, len(data), 999)]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(members) + bytes(100))
    reader = open_labelmap(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(whole(reader), array)
    out = np.zeros((1, 30, 50), "u1")
    reader.read_into(out, (11, 0, 0))
    np.testing.assert_array_equal(out[0], array[11])


def test_what_packs_well(tmp_path):
    array = np.zeros((50, 400, 1000), "u1")
    array[30:] = 7
    reader = open_labelmap(saved(tmp_path / "a.nii.gz", array))
    out = np.ones((3, 100, 100), "u1")
    reader.read_into(out, (28, 300, 900))
    assert out.max(axis=(1, 2)).tolist() == [0, 0, 7]


def test_the_name_does_not_tell_what_is_packed(tmp_path):
    array = noise((3, 4, 5))
    (tmp_path / "a.nii").write_bytes(saved(tmp_path / "b.nii.gz", array).read_bytes())
    np.testing.assert_array_equal(whole(open_labelmap(tmp_path / "a.nii")), array)
    (tmp_path / "b.nii.gz").write_bytes(saved(tmp_path / "c.nii", array).read_bytes())
    np.testing.assert_array_equal(whole(open_labelmap(tmp_path / "b.nii.gz")), array)


def test_a_packed_file_that_is_truncated_or_damaged(tmp_path):
    array = noise((30, 40, 50))
    data = saved(tmp_path / "a.nii.gz", array).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(data[: len(data) // 2])
    reader = open_labelmap(path)
    reader.read_into(np.zeros((1, 1, 1), "u1"), (0, 0, 0))
    with pytest.raises(DataError, match=r"b\.nii\.gz is truncated: it ends \d+ bytes .*copy it"):
        whole(reader)
    path.write_bytes(data[:-5000] + b"odd bytes" * 100 + data[-4100:])
    with pytest.raises(DataError, match=r"b\.nii\.gz is damaged at byte \d+ or before: Error"):
        whole(open_labelmap(path))


# --- as a reader ------------------------------------------------------------------------------


def test_segmentations_become_label_sets(tmp_path):
    """A volume and what ITK-SNAP saved of it, from file to store."""
    image, roi = noise((20, 30, 40)), noise((20, 30, 40)) % 9
    store = tmp_path / "v.ome.zarr"
    convert(open_labelmap(saved(tmp_path / "image.nii", image)), store)
    source = open_labelmap(saved(tmp_path / "roi.nii.gz", roi.astype("i2")))
    volume = labels(source, store, "roi", "prasad2020-roi")
    np.testing.assert_array_equal(volume["0/image"], image)
    np.testing.assert_array_equal(volume["labels/roi/0/roi"], roi)
    assert float(volume["0/z"][1]) == 2.0


@pytest.mark.parametrize(
    ("axes", "turn"),
    [
        ((-1, -1, 1), lambda v: v),
        ((1, -1, 1), lambda v: v[:, :, ::-1]),
        ((1, 1, -1), lambda v: v[::-1, ::-1, ::-1]),
    ],
)
@pytest.mark.parametrize("flip", ["", "zx"])
def test_segmentations_with_other_axes_are_turned(tmp_path, axes, turn, flip):
    """The same voxels of space, saved along other axes, become the same labels."""
    image, roi = noise((20, 30, 40)), noise((20, 30, 40), seed=1) % 9
    store = tmp_path / "v.ome.zarr"
    convert(open_labelmap(saved(tmp_path / "image.nii", image)), store, flip=flip)
    affine = np.diag([*np.abs(np.diag(AFFINE))[:3] * axes, 1])
    path = saved(tmp_path / "roi.nii.gz", np.ascontiguousarray(turn(roi)), affine=affine)
    volume = labels(path, store, "roi", "prasad2020-roi")
    stored = roi[::-1, :, ::-1] if flip else roi
    np.testing.assert_array_equal(volume["labels/roi/0/roi"], stored)
    assert verify(store)["whole"]
    key = next((store / "labels/roi/0/roi/c").rglob("0"))
    shards = [path for path in key.rglob("*") if path.is_file()] or [key]
    shards[0].write_bytes(b"damaged")
    assert verify(store, repair=True)["whole"]


@pytest.mark.parametrize("permuted", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_segmentations_with_axes_in_another_order_are_turned(tmp_path, permuted):
    image, roi = noise((20, 30, 40)), noise((20, 30, 40), seed=1) % 9
    store = tmp_path / "v.ome.zarr"
    convert(open_labelmap(saved(tmp_path / "image.nii", image)), store)
    turned = nibabel.Nifti1Image(
        roi.T.transpose(permuted), np.c_[AFFINE[:, list(permuted)], AFFINE[:, 3]]
    )
    turned.header.set_xyzt_units("mm")
    nibabel.save(turned, tmp_path / "roi.nii")
    volume = labels(tmp_path / "roi.nii", store, "roi", "prasad2020-roi")
    np.testing.assert_array_equal(volume["labels/roi/0/roi"], roi)


def test_a_segmentation_of_a_part_knows_its_place(tmp_path):
    image, roi = noise((20, 30, 40)), noise((20, 30, 40), seed=1) % 8 + 1
    store = tmp_path / "v.ome.zarr"
    convert(open_labelmap(saved(tmp_path / "image.nii", image)), store)
    affine = AFFINE.copy()
    affine[:3, 3] = AFFINE[:3, :3] @ (7, 5, 3)  # x, y, z of its first voxel
    path = saved(tmp_path / "roi.nii", roi[3:9, 5:20, 7:30], affine=affine)
    volume = labels(path, store, "roi", "prasad2020-roi")
    expected = np.zeros_like(roi)
    expected[3:9, 5:20, 7:30] = roi[3:9, 5:20, 7:30]
    np.testing.assert_array_equal(volume["labels/roi/0/roi"], expected)
    flipped = tmp_path / "f.ome.zarr"
    convert(tmp_path / "image.nii", flipped, flip="x")
    affine[0, 0] *= -1  # along the axes of what was flipped: where it begins nobody knows
    path = saved(tmp_path / "f.nii", roi[3:9, 5:20, 7:30], affine=affine)
    with pytest.raises(RequestError, match="give --offset z,y,x, or --planes"):
        labels(path, flipped, "roi", "prasad2020-roi")
    coarse = np.diag([-0.00234, -0.0026, 0.004, 1.0])
    with pytest.warns(UserWarning, match="their voxels are 4,2.6,2.34 um, those of the volume"):
        labels(saved(tmp_path / "c.nii", roi, affine=coarse), store, "c", "prasad2020-roi")


def test_provenance_notices_a_change(tmp_path):
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)))
    first = open_labelmap(path).provenance
    assert first == open_labelmap(path, (1, 1, 1)).provenance
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "nifti",
        "location": str(path),
        "orientation": "LPS",
        "shape": [3, 4, 5],
        "dtype": "uint8",
        "total_bytes": path.stat().st_size,
    }
    os.utime(path, ns=(0, 1))
    assert open_labelmap(path).provenance["fingerprint"] != first["fingerprint"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_wrong_buffers_are_refused(tmp_path, suffix):
    reader = open_labelmap(saved(tmp_path / f"a{suffix}", noise((3, 4, 5))))
    for out, start in (
        (np.zeros((1, 1, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (3, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (0, -1, 0)),
        (np.zeros((4, 5), "u1"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="nifti: cannot give"):
            reader.read_into(out, start)
    reader.read_into(np.zeros((0, 4, 5), "u1"), (3, 0, 0))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_file_goes_or_changes(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", noise((3, 4, 5)))
    reader = open_labelmap(path)
    saved(path, noise((3, 4, 60)))
    with pytest.raises(DataError, match=r"a\.nii.* has changed since it was opened; open it again"):
        whole(reader)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.nii.* was there at opening, now: No such file"):
        whole(reader)


# --- bad input --------------------------------------------------------------------------------


def refused(error, match, path, spacing_um=None):
    with pytest.raises(error, match=match) as caught:
        open_labelmap(path, spacing_um)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    refused(MissingError, r"nii: no such file: .*gone\.nii; check the path", tmp_path / "gone.nii")
    (tmp_path / "a.nii").write_bytes(b"")
    refused(DataError, r"a\.nii is empty \(0 bytes\); copy it again", tmp_path / "a.nii")
    refused(RequestError, r"a\.img: unknown suffix; allowed: \.nii, \.nii\.gz", tmp_path / "a.img")
    (tmp_path / "folder.nii").mkdir()
    refused(RequestError, r"folder\.nii is a folder; name a file in it", tmp_path / "folder.nii")


def test_every_truncation_is_noticed(tmp_path):
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)))
    data = path.read_bytes()
    for size in [*range(1, len(data), 13), len(data) - 1]:
        path.write_bytes(data[:size])
        refused(DataError, r"a\.nii is (truncated: its \(3, 4, 5\) uint8|not a NIfTI file)", path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "data",
    [
        b"hello, world" * 99,
        struct.pack("<i", 348) + bytes(400),
        gzip.compress(b"hello" * 200, mtime=0),
    ],
    ids=["text", "no magic", "packed text"],
)
def test_not_a_nifti_file(tmp_path, suffix, data):
    (tmp_path / f"a{suffix}").write_bytes(data)
    refused(DataError, r"a\.nii.* is not a NIfTI file", tmp_path / f"a{suffix}")


def test_not_quite_gzip(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    refused(DataError, r"cannot read .*a\.nii\.gz: Error -3", tmp_path / "a.nii.gz")


def test_voxels_in_another_file(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(noise((3, 4, 5)).T, AFFINE), tmp_path / "a.img")
    os.rename(tmp_path / "a.hdr", tmp_path / "a.nii")
    refused(RequestError, r"voxels of .*a\.nii lie in another file \(\.img\)", tmp_path / "a.nii")


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize("dtype", ["c8", "c16", RGB], ids=str)
def test_other_values(tmp_path, dtype):
    path = saved(tmp_path / "a.nii", np.zeros((2, 3, 4), dtype))
    refused(RequestError, r"nifti: .*a\.nii holds .*; allowed: integers and floats", path)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (2, 1, 3, 4, 5)])
def test_other_shapes(tmp_path, shape):
    path = saved(tmp_path / "a.nii", np.zeros(shape, "u1"))
    refused(RequestError, r"a\.nii has shape \(.*\); give one volume \(x, y, z\)", path)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"datatype": 77}, "unknown code 77"),
        ({"datatype": 1}, "holds"),
        ({"datatype": 1536}, "holds"),
        ({"vox_offset": 100}, "voxels from byte 100 on, inside the header"),
        ({"vox_offset": np.nan}, "NaN"),
        ({"vox_offset": np.inf}, "infinity"),
        ({"scl_inter": np.inf, "scl_slope": 2}, "invalid intercept inf"),
        ({"dim": (9, 1, 1, 1, 1, 1, 1, 1)}, "."),
        ({"dim": (3, 5, -4, 3, 1, 1, 1, 1)}, r"shape \(5, -4, 3\)"),
        ({"dim": (0, 5, 4, 3, 1, 1, 1, 1)}, r"shape \(0,\)"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3}, "."),
    ],
    ids=str,
)
def test_headers_that_make_no_sense(tmp_path, fields, why):
    path = patched(saved(tmp_path / "a.nii", noise((3, 4, 5))), **fields)
    with pytest.raises((DataError, RequestError), match=rf"nifti: .*a\.nii.*({why})") as caught:
        open_labelmap(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_any_damage_of_a_header_is_told_in_one_line(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("nifti") / "a.nii"
    data = bytearray(saved(path, noise((3, 4, 5))).read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(data)
    said = "voxels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            reader = open_labelmap(path, UM)
        whole(reader)
    except (DataError, RequestError) as error:
        said = str(error)
    assert len(said.splitlines()) == 1


def test_without_nibabel(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii", noise((3, 4, 5)))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    refused(RequestError, r"a\.nii needs nibabel; install it: pip install 'thc_dask\[", path)


def test_zlib_can_copy_its_decoder():
    """All that is packed rests on it."""
    data = zlib.compress(noise((9999,)).tobytes())
    decoder = zlib.decompressobj(packed.GZIP_OR_ZLIB)
    first = decoder.decompress(data[:5000])
    rest = [d.decompress(data[5000:]) for d in (decoder.copy(), decoder)]
    assert rest[0] == rest[1]
    assert first + rest[0] == noise((9999,)).tobytes()
