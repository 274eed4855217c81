import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.files import GAP_BYTES, SCRATCH_BYTES
from thc_dask.grid import Extent
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.npy import open_npy

UM = (2.0, 1.17, 1.3)


def whole(reader):
    return read(reader, reader.grid.extent)


def saved(path, array):
    np.save(path, array)
    return path


def noise(shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(dtype)


# --- the same voxels as numpy reads --------------------------------------------------------------


@settings(max_examples=150)
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "<u2", ">u2", "<i4", ">u4", "<f4", ">f4", "i1", "f8", "<f2"]),
        st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 75)),
    ),
    order=st.sampled_from("CF"),
    data=st.data(),
)
def test_random_blocks(tmp_path_factory, array, order, data):
    path = saved(tmp_path_factory.mktemp("npy") / "a.npy", np.asarray(array, order=order))
    reader = open_npy(path, UM)
    assert reader.dtype == array.dtype.newbyteorder("=")
    assert reader.dtype.isnative
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in array.shape)))
    shape = [data.draw(st.integers(1, n - a)) for n, a in zip(array.shape, start, strict=True)]
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


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">f4"])
def test_larger_than_every_buffer(tmp_path, order, dtype):
    array = noise((3, 70, SCRATCH_BYTES // 128), dtype)
    if order == "F":
        array = array.transpose(2, 1, 0)
    reader = open_npy(saved(tmp_path / "a.npy", np.asarray(array, order=order)), UM)
    column = min(len(array), GAP_BYTES // reader.dtype.itemsize)
    assert reader.unit == ((column, 1, 1) if order == "F" else (1, 1, 1))
    np.testing.assert_array_equal(whole(reader), array)
    out = np.zeros((array.shape[0] - 2, 65, array.shape[2] - 1), reader.dtype)
    reader.read_into(out, (1, 3, 1))
    np.testing.assert_array_equal(out, array[1:-1, 3:68, 1:])


@pytest.mark.parametrize("order", ["C", "F"])
def test_few_voxels_of_long_rows(tmp_path, monkeypatch, order):
    shape = (2, 9, GAP_BYTES + 50)
    array = noise(shape if order == "C" else shape[::-1])
    reader = open_npy(saved(tmp_path / "a.npy", np.asarray(array, order=order)), UM)
    n_bytes = []
    preadv = os.preadv

    def counted(fd, buffers, offset):
        n_bytes.append(preadv(fd, buffers, offset))
        return n_bytes[-1]

    monkeypatch.setattr(os, "preadv", counted)
    out = np.zeros((2, 5, 5) if order == "C" else (5, 5, 2), "u1")
    start = (0, 2, GAP_BYTES + 10) if order == "C" else (GAP_BYTES + 10, 2, 0)
    reader.read_into(out, start)
    np.testing.assert_array_equal(out, array[Extent(start, np.add(start, out.shape)).slices])
    assert sum(n_bytes) == out.size


def test_whole_planes_are_read_at_once(tmp_path, monkeypatch):
    array = noise((6, 20, 30))
    reader = open_npy(saved(tmp_path / "a.npy", array), UM)
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: calls.append(args) or preadv(*args))
    out = np.zeros((4, 20, 30), "u1")
    reader.read_into(out, (1, 0, 0))
    np.testing.assert_array_equal(out, array[1:5])
    assert len(calls) == 1


def test_reads_that_stop_short_go_on(tmp_path, monkeypatch):
    array = noise((3, 20, 30), "u2")
    reader = open_npy(saved(tmp_path / "a.npy", array), UM)
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, b, at: preadv(fd, [memoryview(b[0]).cast("B")[:1000]], at)
    )
    np.testing.assert_array_equal(whole(reader), array)


def test_a_plane_and_booleans(tmp_path):
    mask = noise((7, 9)) > 100
    for order in "CF":
        reader = open_npy(saved(tmp_path / "a.npy", np.asarray(mask, order=order)), UM)
        assert reader.grid.shape == (1, 7, 9)
        assert reader.dtype == np.uint8
        np.testing.assert_array_equal(whole(reader)[0], mask.astype("u1"))


def test_nan_and_infinities_stay(tmp_path):
    array = np.array([[[np.nan, np.inf, -np.inf, -0.0]]], ">f4")
    found = whole(open_npy(saved(tmp_path / "a.npy", array), UM))
    assert found.tobytes() == array.astype("<f4").tobytes()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions(tmp_path, version):
    array = noise((2, 3, 4), "u2")
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=version)
        file.write(b"what follows is not ours")
    np.testing.assert_array_equal(whole(open_npy(tmp_path / "a.npy", UM)), array)


# --- as a reader -----------------------------------------------------------------------------


def test_pickle_threads_and_dataarray(tmp_path):
    array = noise((9, 40, 30), "u2")
    reader = open_npy(saved(tmp_path / "a.npy", array), UM)
    assert reader.unit == (1, 1, 1)
    assert reader.grid.spacing_um == UM
    assert reader.grid.origin_um == (0.0, 0.0, 0.0)
    reader = pickle.loads(pickle.dumps(reader))
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


def test_provenance_notices_a_change(tmp_path):
    path = saved(tmp_path / "a.npy", noise((3, 4, 5)))
    first = open_npy(path, UM).provenance
    assert first == open_npy(path, UM).provenance
    assert {k: v for k, v in first.items() if k != "fingerprint"} == {
        "kind": "npy",
        "location": str(path),
        "shape": [3, 4, 5],
        "dtype": "uint8",
        "total_bytes": path.stat().st_size,
    }
    os.utime(path, ns=(0, 1))
    assert open_npy(path, UM).provenance["fingerprint"] != first["fingerprint"]


def test_wrong_buffers_are_refused(tmp_path):
    reader = open_npy(saved(tmp_path / "a.npy", noise((3, 4, 5))), UM)
    for out, start in (
        (np.zeros((1, 1, 1), "u2"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (3, 0, 0)),
        (np.zeros((1, 5, 1), "u1"), (0, 0, 0)),
        (np.zeros((1, 1, 1), "u1"), (0, -1, 0)),
        (np.zeros((4, 5), "u1"), (0, 0, 0)),
    ):
        with pytest.raises(RequestError, match="npy: cannot give"):
            reader.read_into(out, start)
    reader.read_into(np.zeros((0, 4, 5), "u1"), (3, 0, 0))


# --- bad input ---------------------------------------------------------------------------------


def refused(error, match, path, spacing_um=UM):
    with pytest.raises(error, match=match) as caught:
        open_npy(path, spacing_um)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    refused(MissingError, r"npy: no such file: .*gone\.npy; check the path", tmp_path / "gone.npy")
    refused(RequestError, r"npy: .* is a folder; name a file in it", tmp_path)
    (tmp_path / "a.npy").write_bytes(b"")
    refused(DataError, r"a\.npy is empty \(0 bytes\); copy it again", tmp_path / "a.npy")


def test_no_voxel_size(tmp_path):
    path = saved(tmp_path / "a.npy", noise((3, 4, 5)))
    refused(RequestError, r"no voxel size in .*a\.npy; give it as --spacing 1\.17um", path, None)


def test_every_truncation_is_noticed(tmp_path):
    path = saved(tmp_path / "a.npy", noise((3, 4, 5)))
    data = path.read_bytes()
    for size in range(1, len(data), 7):
        path.write_bytes(data[:size])
        refused(DataError, r"a\.npy is (truncated: its|not a readable \.npy file: )", path)
    path.write_bytes(data[:-1])
    refused(DataError, rf"uint8 end at byte {len(data)}, the file at {len(data) - 1};", path)


@pytest.mark.parametrize(
    "data", [b"hello, world" * 20, b"\x93NUMPY\x01\x00\x05\x00{'a'}", b"\x93NUMPY\x04\x00" * 9]
)
def test_not_an_npy_file(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    refused(DataError, r"a\.npy is not a readable \.npy file: \w", tmp_path / "a.npy")


def test_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", noise((3, 4, 5)))
    refused(RequestError, r"a\.npz is an archive of arrays.*numpy\.save", tmp_path / "a.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4), "c8"),
        np.zeros((2, 3, 4), [("a", "u1")]),
        np.zeros((2, 3, 4), "O"),
        np.zeros((2, 3, 4), "U3"),
        np.zeros((2, 3, 4), "M8[s]"),
        np.zeros((2, 3, 4), "g"),
    ],
    ids=lambda a: a.dtype.str if a.dtype.fields is None else "struct",
)
def test_other_values(tmp_path, array):
    refused(RequestError, r"a\.npy holds .*; allowed: integers", saved(tmp_path / "a.npy", array))


@pytest.mark.parametrize("shape", [(), (5,), (1, 2, 3, 4), (3, 0, 4)])
def test_other_shapes(tmp_path, shape):
    path = saved(tmp_path / "a.npy", np.zeros(shape, "u1"))
    refused(RequestError, r"a\.npy has shape \(.*give an array \(z, y, x\)", path)


def test_the_file_goes_or_changes(tmp_path):
    path = saved(tmp_path / "a.npy", noise((3, 4, 5)))
    reader = open_npy(path, UM)
    saved(path, noise((3, 4, 6)))
    with pytest.raises(DataError, match=r"a\.npy has changed since it was opened; open it again"):
        whole(reader)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.npy was there at opening, now: No such file"):
        whole(reader)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.npy", noise((3, 4, 5)))
    reader = open_npy(path, UM)
    preadv = os.preadv

    def shrinking(*args):
        os.truncate(path, 150)
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", shrinking)
    with pytest.raises(DataError, match=r"a\.npy ends before byte \d+; copy it again"):
        whole(reader)
