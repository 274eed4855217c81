import errno
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import h5py
import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thc_dask import convert
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.files import Plain
from thc_dask.grid import Extent
from thc_dask.origin import reopen
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.hdf5 import open_hdf5
from thc_dask.sources.hdf5.storage import Chunks, Library
from thc_dask.store.read import Store
from thc_dask.views import reorder

UM = (2.0, 1.17, 1.3)
SHAPE = (7, 33, 41)


def noise(shape=SHAPE, dtype="uint16"):
    rng = np.random.default_rng(sum(shape))
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 200, shape).astype(dtype)


def whole(reader):
    return read(reader, reader.grid.extent)


def refused(error, match, location, spacing_um=UM):
    with pytest.raises(error, match=match) as caught:
        open_hdf5(location, spacing_um)
    assert "\n" not in str(caught.value)


def filtered(file, name, array, chunk, number, encode, shuffle=False):
    """Write a dataset through a filter that the library here need not have."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    if shuffle:
        plist.set_shuffle()
    plist.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(array.shape)
    kind = h5py.h5t.py_create(array.dtype)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space, plist)
    for place in np.ndindex(*(-(-n // c) for n, c in zip(array.shape, chunk, strict=True))):
        start = tuple(p * c for p, c in zip(place, chunk, strict=True))
        part = array[tuple(slice(a, a + c) for a, c in zip(start, chunk, strict=True))]
        block = np.zeros(chunk, array.dtype)
        block[tuple(slice(0, n) for n in part.shape)] = part
        data = block.tobytes()
        if shuffle:
            data = np.frombuffer(data, "u1").reshape(-1, array.itemsize).T.tobytes()
        dataset.write_direct_chunk(start, encode(data))


# --- the same voxels as h5py reads -----------------------------------------------------------

CHUNK = (3, 16, 20)
KINDS = {
    "plain": (Plain, {}),
    "chunks": (Chunks, {"chunks": CHUNK}),
    "planes": (Chunks, {"chunks": (1, 33, 41), "compression": "gzip"}),
    "deflate": (Chunks, {"chunks": CHUNK, "compression": "gzip"}),
    "shuffle": (Chunks, {"chunks": CHUNK, "compression": "gzip", "shuffle": True}),
    "only shuffle": (Chunks, {"chunks": CHUNK, "shuffle": True}),
    "checksum": (
        Chunks,
        {"chunks": CHUNK, "compression": "gzip", "shuffle": True, "fletcher32": True},
    ),
    "only checksum": (Chunks, {"chunks": CHUNK, "fletcher32": True}),
    "lzf": (Chunks, {"chunks": CHUNK, "compression": "lzf"}),
    "large chunk": (Chunks, {"chunks": (50, 50, 50), "maxshape": (None,) * 3}),
    "scale-offset": (Library, {"chunks": CHUNK, "scaleoffset": 0}),
}
DTYPES = ["uint8", "uint16", ">u2", "float32", ">f4", "int32", "bool", "float16"]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A file with every kind of storage of every type."""
    path = tmp_path_factory.mktemp("hdf5") / "a.h5"
    with h5py.File(path, "w") as file:
        for dtype in DTYPES:
            for name, (_, options) in KINDS.items():
                if name != "scale-offset" or np.dtype(dtype).kind in "ui":
                    file.create_dataset(f"{dtype}/{name}", data=noise(dtype=dtype), **options)
    return path


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", ">f4"])
def test_kinds_of_storage(encoded, name, dtype):
    if name == "scale-offset" and dtype == ">f4":
        dtype = "int32"
    reader = open_hdf5(f"{encoded}:/{dtype}/{name}", UM)
    kind, options = KINDS[name]
    assert type(reader.storage) is kind
    assert reader.unit == tuple(np.minimum(options.get("chunks", (1, 1, 1)), SHAPE))
    assert reader.grid.shape == SHAPE
    assert reader.grid.spacing_um == UM
    assert reader.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(whole(reader), noise(dtype=dtype))


@settings(max_examples=150)
@given(data=st.data())
def test_random_blocks(encoded, data):
    name = data.draw(st.sampled_from([n for n in KINDS if n != "scale-offset"]))
    dtype = data.draw(st.sampled_from(DTYPES))
    array = noise(dtype=dtype)
    reader = open_hdf5(f"{encoded}:/{dtype}/{name}", UM)
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in SHAPE)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(SHAPE, start, strict=True)]
    box = Extent(start, tuple(a + n for a, n in zip(start, shape, strict=True))).slices
    layout = data.draw(st.sampled_from(["new", "part", "transposed"]))
    if layout == "new":
        out = np.zeros(shape, reader.dtype)
    elif layout == "part":
        out = np.zeros([n + 3 for n in shape], reader.dtype)[1:-2, 2:-1, 1:-2]
    else:
        out = np.zeros(shape[::-1], reader.dtype).T
    reader.read_into(out, start)
    np.testing.assert_array_equal(out, array[box])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("number", "encode"),
    [
        (32015, imagecodecs.zstd_encode),
        (32004, imagecodecs.lz4h5_encode),
        (32001, lambda data: imagecodecs.blosc_encode(data, typesize=4, shuffle=1)),
    ],
    ids=["zstd", "lz4", "blosc"],
)
def test_filters_the_library_need_not_have(tmp_path, number, encode, shuffle):
    array = noise(dtype="float32")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        filtered(file, "x", array, CHUNK, number, encode, shuffle)
    np.testing.assert_array_equal(whole(open_hdf5(tmp_path / "a.h5", UM)), array)


def test_chunks_of_which_a_filter_was_left_out(tmp_path):
    """The library does so where a filter does not make a chunk smaller."""
    array = noise((2, 8, 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"chunks": (1, 8, 8), "compression": "gzip", "shuffle": True}
        made = file.create_dataset("x", (2, 8, 8), "u2", **options)
        made[0] = array[0]
        made.id.write_direct_chunk((1, 0, 0), array[1].tobytes(), filter_mask=0b11)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"], array)
    np.testing.assert_array_equal(whole(open_hdf5(tmp_path / "a.h5", UM)), array)


def test_voxels_never_written_have_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"dtype": ">u2", "fillvalue": 700}
        file.create_dataset("chunked", (4, 6, 8), chunks=(2, 3, 4), **options)[0, 0, 0] = 5
        file.create_dataset("contiguous", (4, 6, 8), **options)
    expected = np.full((4, 6, 8), 700)
    np.testing.assert_array_equal(whole(open_hdf5(f"{tmp_path}/a.h5:contiguous", UM)), expected)
    expected[0, 0, 0] = 5
    np.testing.assert_array_equal(whole(open_hdf5(f"{tmp_path}/a.h5:chunked", UM)), expected)


def test_nan_and_infinities_stay(tmp_path):
    array = np.array([[[np.nan, np.inf, -np.inf, -0.0]]], ">f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"] = array
        file.create_dataset("gz", data=array, compression="gzip", shuffle=True)
    for name in ("plain", "gz"):
        found = whole(open_hdf5(f"{tmp_path}/a.h5:{name}", UM))
        assert found.tobytes() == array.astype("<f4").tobytes()


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 1024])
def test_versions_of_the_format_and_user_blocks(tmp_path, libver, userblock):
    array = noise()
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        file["plain"] = array
        growing = {"maxshape": (None,) * 3, "chunks": CHUNK, "compression": "gzip"}
        file.create_dataset("growing", data=array, **growing)
        file.create_dataset("one chunk", data=array, chunks=SHAPE, compression="gzip")
    if userblock:
        with open(path, "r+b") as file:
            file.write(b"not voxels" * 100)
    for name in ("plain", "growing", "one chunk"):
        np.testing.assert_array_equal(whole(open_hdf5(f"{path}:{name}", UM)), array)


def test_compact_storage(tmp_path):
    array = noise((2, 3, 4))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.py_create(array.dtype)
        h5py.h5d.create(file.id, b"x", kind, space, plist).write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    np.testing.assert_array_equal(whole(open_hdf5(tmp_path / "a.h5", UM)), array)


def test_numbers_of_odd_widths(tmp_path):
    """12 bits within 16, shifted: numpy has no such type, the library converts."""
    array = noise((2, 3, 4)) % 4096
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = h5py.h5t.STD_U16LE.copy()
        kind.set_precision(12)
        kind.set_offset(4)
        space = h5py.h5s.create_simple(array.shape)
        made = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space))
        made[...] = array
    reader = open_hdf5(tmp_path / "a.h5", UM)
    assert isinstance(reader.storage, Library)
    np.testing.assert_array_equal(whole(reader), array)


def test_a_plane(tmp_path):
    array = noise((33, 41))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["plain"] = array
        file.create_dataset("gz", data=array, chunks=(8, 16), compression="gzip")
        file.create_dataset("so", data=array, chunks=(8, 16), scaleoffset=0)
    for name, unit in (("plain", (1, 1, 1)), ("gz", (1, 8, 16)), ("so", (1, 8, 16))):
        reader = open_hdf5(f"{tmp_path}/a.h5:{name}", UM)
        assert reader.grid.shape == (1, 33, 41)
        assert reader.unit == unit
        assert reader.axes == "zyx"
        np.testing.assert_array_equal(whole(reader)[0], array)
        out = np.zeros((1, 5, 6), array.dtype)
        reader.read_into(out, (0, 7, 15))
        np.testing.assert_array_equal(out[0], array[7:12, 15:21])


# --- links and virtual datasets ------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path):
    """Two files of three planes, and one that shows them as a whole and links to them."""
    array = noise((6, 33, 41))
    for i in range(2):
        with h5py.File(tmp_path / f"part{i}.h5", "w") as file:
            file["recon"] = array[3 * i : 3 * i + 3]
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    for i in range(2):
        layout[3 * i : 3 * i + 3] = h5py.VirtualSource(f"part{i}.h5", "recon", (3, 33, 41))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("all", layout)
        file["second"] = h5py.ExternalLink("part1.h5", "/recon")
        file["soft"] = h5py.SoftLink("/all")
        file["dangling"] = h5py.ExternalLink("part2.h5", "/recon")
    return tmp_path, array


def test_virtual_dataset(parts):
    folder, array = parts
    for name in ("", ":/all", ":soft"):
        reader = open_hdf5(f"{folder}/all.h5{name}", UM)
        assert isinstance(reader.storage, Library)
        np.testing.assert_array_equal(whole(reader), array)
    names = {os.path.basename(file.path) for file in reader.files}
    assert names == {"all.h5", "part0.h5", "part1.h5"}


def test_a_lost_part_of_a_virtual_dataset_is_not_zeros(parts):
    folder, _ = parts
    reader = open_hdf5(folder / "all.h5", UM)
    (folder / "part1.h5").rename(folder / "away.h5")
    with pytest.raises(DataError, match=r"part1\.h5 was there at opening, now: No such file"):
        whole(reader)
    refused(MissingError, r"hdf5: no such file: .*part1\.h5", folder / "all.h5")


def test_the_command_says_so_and_ends(parts, tmp_path):
    """What an error holds must be let go before the library goes: it took the process with it."""
    folder, _ = parts
    (folder / "part1.h5").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "thc_dask", "convert", folder / "all.h5", tmp_path / "v.zarr",
         "--spacing", "1um"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("thc convert: hdf5: no such file: ")
    assert done.stderr.count("\n") == 1


def test_a_dataset_lost_from_a_part_is_not_zeros(parts):
    folder, _ = parts
    with h5py.File(folder / "part1.h5", "w") as file:
        file["other"] = [1]
    refused(MissingError, r"part1\.h5 has no dataset recon, which /all of", folder / "all.h5")


def test_external_link(parts):
    folder, array = parts
    reader = open_hdf5(f"{folder}/all.h5:/second", UM)
    assert isinstance(reader.storage, Plain)
    np.testing.assert_array_equal(whole(reader), array[3:])
    first = reader.provenance["fingerprint"]
    os.utime(folder / "part1.h5", ns=(0, 1))
    assert open_hdf5(f"{folder}/all.h5:/second", UM).provenance["fingerprint"] != first
    refused(
        MissingError, r"dangling of .*all\.h5 is a link to /recon of part2\.h5, which is not there",
        f"{folder}/all.h5:dangling",
    )  # fmt: skip


def test_voxels_in_a_file_of_their_own(tmp_path):
    array = noise((2, 3, 4))
    (tmp_path / "raw.bin").write_bytes(b"head" + array.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        place = [("raw.bin", 4, array.nbytes)]
        file.create_dataset("x", array.shape, array.dtype, external=place)
    match = r"/x of .*a\.h5 keeps its voxels in other files \(raw\.bin\); .* h5repack"
    refused(RequestError, match, tmp_path / "a.h5")


# --- which dataset -------------------------------------------------------------------------------


def test_exchange_data_is_meant(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = noise((2, 3, 4))
        file["exchange/data_dark"] = noise((2, 3, 4)) + 1
    reader = open_hdf5(tmp_path / "a.h5", UM)
    assert reader.provenance["dataset"] == "/exchange/data"
    assert open_hdf5(f"{tmp_path}/a.h5:/exchange/data_dark", UM).provenance["dataset"] == (
        "/exchange/data_dark"
    )


def test_the_only_volume_is_meant(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["some/where/recon"] = noise((2, 3, 4))
        file["preview"] = noise((3, 4))
        file["name"] = "sample 7"
        file["angles"] = np.arange(5.0)
        file["colours"] = np.zeros((2, 3, 4), [("r", "u1"), ("g", "u1")])
    reader = open_hdf5(tmp_path / "a.h5", UM)
    assert reader.provenance["dataset"] == "/some/where/recon"


def test_several_volumes_are_listed(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(10):
            file[f"recon{i}"] = noise((2, 3, 4))
    refused(
        RequestError,
        r"several datasets; name one, as in .*a\.h5:/recon0 \(there are /recon0 \(2, 3, 4\) uint16"
        r", /recon1 .*, 2 more\)",
        tmp_path / "a.h5",
    )


def test_no_volume(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["angles"] = np.arange(5.0)
    refused(RequestError, r"a\.h5 holds no dataset of 3 \(or 2\) axes", tmp_path / "a.h5")


def test_unknown_dataset(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["recon/x"] = noise((2, 3, 4))
    for name in ("/nope", ":recon/nope", ":/recon/x/deeper"):
        refused(
            MissingError, r"a\.h5 has no dataset .*; it has /recon/x \(2, 3, 4\) uint16",
            f"{tmp_path}/a.h5:{name}",
        )  # fmt: skip
    refused(RequestError, r"recon of .* is no dataset; it holds /recon/x", f"{tmp_path}/a.h5:recon")


def test_folders_and_names_with_colons(tmp_path):
    folder = tmp_path / "12:30:15"
    folder.mkdir()
    for name in ("a.h5", "b:c.h5", "d.dat"):
        with h5py.File(folder / name, "w") as file:
            file["x:y"] = noise((2, 3, 4))
        for ask in (f"{folder}/{name}", f"{folder}/{name}:x:y", f"{folder}/{name}::/x:y"):
            assert open_hdf5(ask, UM).provenance["dataset"] == "/x:y"
    refused(MissingError, r"no such file: .*12:30:15/gone\.h5; check", f"{folder}/gone.h5:/x:y")


# --- order of the axes, voxel size ---------------------------------------------------------------


@pytest.mark.parametrize(
    "axes", ["x:y:z", "X, Y, Z", np.array(["x", "y", "z"], "S1"), b"x:y:z", ["x", "y", "z"]]
)
def test_axes_are_named(tmp_path, axes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = noise((2, 3, 4))
        file["exchange/data"].attrs["axes"] = axes
    reader = open_hdf5(tmp_path / "a.h5", UM)
    assert reader.axes == "xyz"
    assert reader.grid.shape == (2, 3, 4)
    assert reader.grid.spacing_um == UM[::-1]


def test_axes_of_labels_and_of_planes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volume"] = noise((2, 3, 4))
        for dimension, label in zip(file["volume"].dims, "yzx", strict=True):
            dimension.label = label
        file["plane"] = noise((3, 4))
        file["plane"].attrs["axes"] = "x:y"
    volume = open_hdf5(f"{tmp_path}/a.h5:volume", UM)
    assert (volume.axes, volume.grid.spacing_um) == ("yzx", (UM[1], UM[0], UM[2]))
    assert open_hdf5(f"{tmp_path}/a.h5:plane", UM).axes == "zxy"


def test_axes_from_the_source_to_the_store_and_back(tmp_path):
    array = noise((20, 30, 40))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=array.transpose(2, 0, 1), chunks=(16, 16, 16))
        file["x"].attrs["axes"] = "x:z:y"
    source = f"{tmp_path}/a.h5:/x"
    given = reorder(open_hdf5(source, UM), "xzy")
    for i, one in enumerate((source, given)):
        convert(one, f"{tmp_path}/{i}.ome.zarr", spacing="2um,1.17um,1.3um")
        store = Store(f"{tmp_path}/{i}.ome.zarr")
        assert store.grid.spacing_um == UM
        found = np.empty(array.shape, "u2")
        store.image().read_into(found, (0, 0, 0))
        np.testing.assert_array_equal(found, array)
        for again in (None, source):
            np.testing.assert_array_equal(whole(reopen(store.thc["provenance"], again)), array)


@pytest.mark.parametrize("axes", ["theta:y:x", "z:y:x", "a:b:c", "x:y", ""])
def test_axes_that_name_no_other_order(tmp_path, axes):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = noise((2, 3, 4))
        file["exchange/data"].attrs["axes"] = axes
    assert open_hdf5(tmp_path / "a.h5", UM).axes == "zyx"


@pytest.mark.parametrize(
    ("axes", "n_angles"), [("theta:y:x", 2), ("y:theta:x", 3), (None, 2), (b"theta:y:x", 2)]
)
def test_projections_are_refused(tmp_path, axes, n_angles):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = noise((2, 3, 4))
        file["exchange/theta"] = np.arange(float(n_angles))
        if axes is not None:
            file["exchange/data"].attrs["axes"] = axes
    match = r"/exchange/data of .*a\.h5 holds projections .*reconstruct it first"
    refused(RequestError, match, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["exchange/data"].attrs["axes"] = "z:y:x"
    assert open_hdf5(tmp_path / "a.h5", UM).axes == "zyx"


def write_with(path, attributes=(), values=()):
    with h5py.File(path, "w") as file:
        file["exchange/data"] = noise((2, 3, 4))
        for owner, name, value in attributes:
            file[owner].attrs[name] = value
        for name, value, unit in values:
            file[name] = value
            if unit:
                file[name].attrs["units"] = unit
    return path


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ([("exchange/data", "element_size_um", [2.0, 1.17, 1.3])], UM),
        ([("exchange/data", "voxel_size", 1170), ("exchange/data", "voxel_size_unit", "nm")], None),
        ([("exchange", "pixel_size", 1.17), ("exchange", "pixel_size_units", b"microns")], None),
        ([("/", "voxel_size_um", np.float32([1.17]))], None),
    ],
)
def test_voxel_size_of_attributes(tmp_path, attributes, expected):
    path = write_with(tmp_path / "a.h5", attributes)
    assert open_hdf5(path).grid.spacing_um == (expected or (1.17, 1.17, 1.17))
    assert open_hdf5(path, (4.0, 5.0, 6.0)).grid.spacing_um == (4.0, 5.0, 6.0)


OBJECTIVE = "measurement/instrument/detection_system/objective"
DETECTOR = "measurement/instrument/detector"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([(f"{OBJECTIVE}/resolution", np.float32([1.17]), None)], 1.17),
        ([(f"{OBJECTIVE}/resolution", 1170.0, "nm")], 1.17),
        ([(f"{DETECTOR}/actual_pixel_size_x", [1.17], "microns")], 1.17),
        ([(f"{DETECTOR}/pixel_size", 5.86, "um"), (f"{OBJECTIVE}/magnification", 5, None)], 1.172),
        ([(f"{DETECTOR}/pixel_size_x", [5.86e-6], "m"), (f"{OBJECTIVE}/magnification", "5x", None)],
         1.172),
        ([(f"{OBJECTIVE}/resolution", 0.0, None), (f"{DETECTOR}/pixel_size", 5.86, None),
          (f"{OBJECTIVE}/magnification", b"5X", None), (f"{DETECTOR}/binning_x", [1], None)],
         1.172),
    ],
)  # fmt: skip
def test_voxel_size_of_the_measurement(tmp_path, values, expected):
    path = write_with(tmp_path / "a.h5", values=values)
    assert open_hdf5(path).grid.spacing_um == pytest.approx((expected,) * 3, rel=1e-15)


@pytest.mark.parametrize(
    ("attributes", "values"),
    [
        ([], []),
        ([("exchange/data", "voxel_size", 1.17)], []),
        ([("exchange/data", "element_size_um", [1.0, 2.0])], []),
        ([("exchange/data", "element_size_um", [1.0, 2.0, -1.0])], []),
        ([("exchange/data", "element_size_um", "unknown")], []),
        ([], [(f"{DETECTOR}/pixel_size", 5.86, "um")]),
        ([], [(f"{DETECTOR}/pixel_size", 5.86, "um"), (f"{OBJECTIVE}/magnification", 0, None)]),
        ([], [(f"{DETECTOR}/pixel_size", 5.86, "um"), (f"{OBJECTIVE}/magnification", 5, None),
              (f"{DETECTOR}/binning_x", 2, None)]),
        ([], [(f"{OBJECTIVE}/resolution", 1.17, "counts")]),
        ([], [(f"{OBJECTIVE}/resolution", h5py.Empty("f4"), None)]),
    ],
)  # fmt: skip
def test_no_trustworthy_voxel_size(tmp_path, attributes, values):
    path = write_with(tmp_path / "a.h5", attributes, values)
    match = r"no voxel size for /exchange/data of .*a\.h5; give it as --spacing 1\.17um"
    refused(RequestError, match, path, None)


# --- as a reader -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "shuffle", "scale-offset"])
def test_pickle_threads_processes_and_dataarray(encoded, name):
    array = noise()
    reader = pickle.loads(pickle.dumps(open_hdf5(f"{encoded}:/uint16/{name}", UM)))
    outs = [np.zeros_like(array) for _ in range(4)]
    threads = [threading.Thread(target=reader.read_into, args=(out, (0, 0, 0))) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, array)
    lazy = as_dataarray(reader, chunk=(4, 16, 16))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), array)
    assert lazy.z.values[1] == 2.0
    if name == "scale-offset":  # a child process opens the library afresh
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            np.testing.assert_array_equal(pool.submit(whole, reader).result(), array)


def test_each_chunk_is_read_once(encoded, monkeypatch):
    reader = open_hdf5(f"{encoded}:/uint16/deflate", UM)
    seen = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, b, at: seen.append(at) or preadv(fd, b, at))
    reader.read_into(np.zeros((4, 18, 5), "u2"), (2, 15, 16))
    assert len(seen) == len(set(seen)) == 2 * 3 * 2


def test_whole_chunks_are_decoded_in_place(encoded, monkeypatch):
    reader = open_hdf5(f"{encoded}:/uint16/planes", UM)
    targets = []
    decode = imagecodecs.deflate_decode

    def watched(data, out):
        targets.append(out)
        return decode(data, out=out)

    monkeypatch.setattr(imagecodecs, "deflate_decode", watched)
    out = np.zeros((3, 33, 41), "u2")
    reader.read_into(out, (2, 0, 0))
    assert all(np.shares_memory(target, out) for target in targets)
    np.testing.assert_array_equal(out, noise()[2:5])


def test_provenance_notices_a_change(encoded):
    reader = open_hdf5(f"{encoded}:/uint16/plain", UM)
    first = reader.provenance
    assert first == open_hdf5(f"{encoded}:/uint16/plain", UM).provenance
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "hdf5",
        "location": f"{encoded}:/uint16/plain",
        "dataset": "/uint16/plain",
        "shape": list(SHAPE),
        "dtype": "uint16",
        "total_bytes": encoded.stat().st_size,
    }
    other = open_hdf5(f"{encoded}:/uint16/chunks", UM).provenance
    assert other["fingerprint"] != first["fingerprint"]


def test_wrong_buffers_are_refused(encoded):
    reader = open_hdf5(f"{encoded}:/uint16/deflate", UM)
    for out, start in (
        (np.zeros((1, 1, 1), "u1"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u2"), (7, 0, 0)),
        (np.zeros((1, 34, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u2"), (0, -1, 0)),
        (np.zeros((4, 5), "u2"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="hdf5: cannot give"):
            reader.read_into(out, start)
    reader.read_into(np.zeros((0, 4, 5), "u2"), (7, 0, 0))


# --- bad input ---------------------------------------------------------------------------------


def test_no_file(tmp_path):
    refused(MissingError, r"hdf5: no such file: .*gone\.h5; check", tmp_path / "gone.h5")
    refused(RequestError, r"hdf5: .* is a folder; name a file in it", tmp_path)
    (tmp_path / "a.h5").write_bytes(b"")
    refused(DataError, r"a\.h5 is empty \(0 bytes\)", tmp_path / "a.h5")
    (tmp_path / "a.h5").write_bytes(b"hello, world" * 99)
    refused(DataError, r"a\.h5 is not an HDF5 file", tmp_path / "a.h5")


def test_truncated(tmp_path):
    path = write_with(tmp_path / "a.h5")
    data = path.read_bytes()
    for size in (len(data) // 3, len(data) - 1):
        path.write_bytes(data[:size])
        refused(DataError, rf"is truncated: it has {size} of {len(data)} bytes; copy", path)


def test_damaged_metadata(tmp_path):
    path = write_with(tmp_path / "a.h5")
    data = bytearray(path.read_bytes())
    data[8:80] = b"\xff" * 72
    path.write_bytes(data)
    refused(DataError, r"hdf5: cannot read .*a\.h5: \w", path)


@pytest.mark.parametrize("checksum", [False, True])
def test_damaged_chunk(tmp_path, checksum):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        filters = {"fletcher32": True} if checksum else {"compression": "gzip"}
        made = file.create_dataset("x", data=noise(), chunks=CHUNK, **filters)
        at = made.id.get_chunk_info_by_coord((3, 16, 0)).byte_offset
    data = bytearray(path.read_bytes())
    data[at + 10 : at + 20] = bytes(10)
    path.write_bytes(data)
    reader = open_hdf5(path, UM)
    match = r"a\.h5: chunk \(1, 1, 0\) \(z,y,x\) cannot be decoded, the file is damaged: \w"
    with pytest.raises(DataError, match=match) as caught:
        whole(reader)
    assert "\n" not in str(caught.value)
    reader.read_into(np.zeros((3, 33, 41), "u2"), (0, 0, 0))


def test_chunk_of_another_size(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("x", (2, 4, 4), "u1", chunks=(1, 4, 4), compression="gzip")
        made.id.write_direct_chunk((0, 0, 0), imagecodecs.zlib_encode(bytes(15)))
        made.id.write_direct_chunk((1, 0, 0), imagecodecs.zlib_encode(bytes(17)))
    reader = open_hdf5(tmp_path / "a.h5", UM)
    for z in range(2):
        with pytest.raises(DataError, match=rf"chunk \({z}, 0, 0\) .*damaged"):
            reader.read_into(np.zeros((1, 4, 4), "u1"), (z, 0, 0))


def test_damage_that_the_library_finds(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        made = file.create_dataset("x", data=noise(), chunks=CHUNK, compression="gzip")
        at = made.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[at : at + 30] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read /x of .*a\.h5: \w") as caught:
        whole(open_hdf5(path, UM))
    assert "\n" not in str(caught.value)


def test_unknown_filter(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        filtered(file, "x", noise(), CHUNK, 32008, bytes)
    refused(RequestError, r"/x of .*a\.h5 is compressed by filter 32008 .*HDF5_PLUGIN_PATH",
            tmp_path / "a.h5")  # fmt: skip


def test_filters_in_a_foreign_order(tmp_path):
    """Shuffled after compression: senseless, but the library reads it, so we do."""
    array = noise()
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(CHUNK)
    plist.set_deflate(4)
    plist.set_shuffle()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space, kind = h5py.h5s.create_simple(SHAPE), h5py.h5t.py_create(array.dtype)
        h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, plist))[...] = array
    reader = open_hdf5(tmp_path / "a.h5", UM)
    assert isinstance(reader.storage, Library)
    np.testing.assert_array_equal(whole(reader), array)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (np.zeros((2, 3, 4), "c8"), "holds complex64; allowed: integers and floats"),
        (np.zeros((2, 3, 4), [("a", "u1")]), "holds .*'a'.*; allowed: integers and floats"),
        (np.zeros((2, 3, 4), "S3"), r"holds \|S3; allowed: integers"),
        (np.zeros((2, 3, 4), "g"), "holds float(128|64|96)|longdouble; allowed: integers"),
        (np.zeros((1, 2, 3, 4), "u1"), r"has shape \(1, 2, 3, 4\); name a dataset \(z, y, x\)"),
        (np.zeros((2, 0, 4), "u1"), r"has shape \(2, 0, 4\); name a dataset"),
        (np.zeros(5), r"has shape \(5,\); name a dataset"),
        (7, r"has shape \(\); name a dataset"),
        (h5py.Empty("f4"), r"has shape None; name a dataset"),
    ],
    ids=["complex", "compound", "text", "long double", "4-D", "empty", "1-D", "scalar", "null"],
)
def test_other_values_and_shapes(tmp_path, value, match):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = value
    refused(RequestError, rf"hdf5: /x of .*a\.h5 {match}", f"{tmp_path}/a.h5:/x")


def test_the_file_goes_or_changes(tmp_path):
    path = write_with(tmp_path / "a.h5")
    reader = open_hdf5(path, UM)
    with h5py.File(path, "r+") as file:
        file["more"] = 1
    with pytest.raises(DataError, match=r"a\.h5 has changed since it was opened; open it again"):
        whole(reader)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.h5 was there at opening, now: No such file"):
        whole(reader)


def test_a_file_that_this_program_writes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = noise()
        refused(RequestError, r"a\.h5 is open for writing in this program; close it",
                tmp_path / "a.h5")  # fmt: skip


def test_a_file_that_another_program_writes(tmp_path):
    code = f"""
import h5py, sys
with h5py.File({str(tmp_path / "a.h5")!r}, "w") as file:
    file["x"] = [[[1]]]
    file.flush()
    print("ready", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        refused(DataError, r"a\.h5 is being written by another program; wait",
                tmp_path / "a.h5")  # fmt: skip
        writer.stdin.close()
    assert whole(open_hdf5(tmp_path / "a.h5", UM)).tolist() == [[[1]]]


def test_without_the_library(tmp_path, monkeypatch):
    path = write_with(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(RequestError, r"reading .*a\.h5 needs h5py; install it: pip install", path)


def test_a_disk_that_fails(tmp_path, monkeypatch):
    path = write_with(tmp_path / "a.h5")
    reader = open_hdf5(path, UM)

    def failing(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(DataError, match=r"cannot read .*a\.h5: Input/output error"):
        whole(reader)
