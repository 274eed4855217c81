"""Arrays as sources: what tells one from another, in this process and in the next."""

import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from tests.strategies import Watched, source
from thc_dask import convert, open_source, open_volume, verify
from thc_dask.errors import DataError, RequestError
from thc_dask.sources import open_reader
from thc_dask.sources.dataarray import open_dataarray
from thc_dask.store.read import Store

SHAPE = (20, 18, 30)
VOXELS = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
SMALL = {"levels": 3, "chunk": (4, 4, 4), "shard": (8, 8, 8)}
MAKE = """
import dask.array as da, numpy as np, xarray as xr
from thc_dask import open_source
from thc_dask.sources.dataarray import open_dataarray

def add(block):
    return block + 1

voxels = np.random.default_rng(1).integers(0, 256, (20, 18, 30), np.uint8)
made = {
    "numpy": voxels,
    "turned": np.asfortranarray(voxels),
    "dask": da.from_array(voxels, chunks=(8, 8, 8)),
    "graph": da.from_array(voxels, chunks=(8, 8, 8)).map_blocks(np.negative)[:, ::-1] + 3,
}
for name, array in made.items():
    found = xr.DataArray(array, dims=("z", "y", "x"), name=name)
    print(open_dataarray(found, (1.0, 1.0, 1.0)).provenance)
print(open_dataarray(open_source("phantom:8,16,24") * 2).provenance)
"""


def record(array, name="voxels"):
    return open_dataarray(
        xr.DataArray(array, dims=("z", "y", "x"), name=name), (1.0,) * 3
    ).provenance


def test_the_same_array_is_the_same_in_another_process():
    command = [sys.executable, "-c", MAKE]
    first, second = (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert first == second
    assert len(set(first.splitlines())) == 5


def test_any_other_voxel_is_another_array():
    rng = np.random.default_rng(2)
    first = record(VOXELS)
    assert first == record(VOXELS.copy()) == record(np.asfortranarray(VOXELS))
    for dtype in (np.int8, np.uint16, np.float32, np.bool_):
        assert record(VOXELS.astype(dtype)) != first
    for array in (VOXELS, da.from_array(VOXELS, chunks=8)):
        known = record(array)
        for place in rng.integers(0, SHAPE, (20, 3)):
            other = VOXELS.copy()
            other[tuple(place)] ^= 1 << int(rng.integers(8))
            other = other if array is VOXELS else da.from_array(other, chunks=8)
            assert record(other) != known
    assert record(VOXELS.reshape(18, 20, 30)) != first


def test_a_source_is_its_own_record_until_something_is_done_to_it():
    phantom = open_source("phantom:8,16,24")
    given = open_reader("phantom:8,16,24").provenance
    assert open_dataarray(phantom).provenance == given
    turned = phantom[:, ::-1].assign_coords(y=phantom.y)
    for changed in (phantom * 2, turned, phantom[1:], phantom.astype(np.uint16)):
        with xr.set_options(keep_attrs=True):
            found = open_dataarray(changed.assign_attrs(provenance=given), (1.0,) * 3).provenance
        assert found["kind"] == "array"
        assert found["made_from"] == given
        assert found["token"] != record(phantom.data)["token"]


def test_what_is_opened_lazily_is_never_taken_for_the_same(tmp_path):
    source(VOXELS).to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=2)
    one, two = (xr.open_zarr(tmp_path / "a.zarr", chunks=None)["voxels"] for _ in range(2))
    assert open_dataarray(one).provenance != open_dataarray(two).provenance
    one, two = (xr.open_zarr(tmp_path / "a.zarr")["voxels"] for _ in range(2))
    assert open_dataarray(one).provenance == open_dataarray(two).provenance


@pytest.mark.parametrize("chunks", [None, (8, 8, 8)])
def test_two_arrays_are_never_mixed(tmp_path, chunks):
    other = VOXELS.copy()
    other[11, 7, 3] ^= 1
    mine, theirs = source(VOXELS, chunks=chunks), source(other, chunks=chunks)
    store = tmp_path / "v.ome.zarr"
    with pytest.raises(DataError, match="the source is damaged"):
        convert(Watched(mine, breaks_at=(19, 17, 29)), store, **SMALL, memory_bytes=2000)
    for _ in range(2):
        with pytest.raises(RequestError, match=r"the source's token was .* is .* now"):
            convert(theirs, store, resume=True, **SMALL)
        volume = convert(source(VOXELS.copy(), chunks=chunks), store, resume=True, **SMALL)
        np.testing.assert_array_equal(volume["0/image"], VOXELS)
    assert verify(store)["whole"]


def test_a_repair_takes_only_the_voxels_that_were_there(tmp_path):
    store = tmp_path / "v.ome.zarr"
    convert(source(VOXELS), store, **SMALL)
    broken = store / "0/image/c/1/1/1"
    data = broken.read_bytes()
    broken.write_bytes(data[:-9])
    good = {p: p.read_bytes() for p in (store / "0/image").rglob("*") if p.is_file()}
    other = VOXELS.copy()
    other[11, 11, 11] ^= 1
    with pytest.raises(DataError, match="made anew it is not what was there"):
        verify(store, repair=True, source=source(other))
    assert good == {p: p.read_bytes() for p in good}
    assert Store(store).location.keys("thc/staged") == []
    # Chunked, it has another name; its voxels are the same.
    assert verify(store, repair=True, source=source(VOXELS, chunks=(5, 6, 7)))["whole"]
    assert broken.read_bytes() == data
    np.testing.assert_array_equal(open_volume(store)["0/image"], VOXELS)


# --- coordinates ----------------------------------------------------------------------------


def placed(units=None, **values):
    """Return an array with coordinates in ``units`` of which some are given."""
    attrs = {} if units is None else {"units": units}
    known = {axis: 5 + 2 * np.arange(n) for axis, n in zip("zyx", SHAPE, strict=True)} | values
    coords = {axis: (axis, v, attrs) for axis, v in known.items()}
    return xr.DataArray(VOXELS, coords, ("z", "y", "x"))


LENGTHS = [(None, 1), ("", 1), ("um", 1), ("micrometers", 1), ("nm", 1e-3), ("Millimetre", 1e3)]


@pytest.mark.parametrize(("units", "factor"), LENGTHS)
def test_units_of_coordinates(units, factor):
    grid = open_dataarray(placed(units)).grid
    assert grid.spacing_um == pytest.approx((2 * factor,) * 3, rel=1e-15)
    assert grid.origin_um == pytest.approx((5 * factor,) * 3, rel=1e-15)
    grid = open_dataarray(placed(units), (1.17,) * 3).grid
    assert grid.spacing_um == (1.17,) * 3
    assert grid.origin_um == pytest.approx((5 * factor,) * 3, rel=1e-15)


def test_small_coordinates_are_even_or_not_as_large_ones_are():
    meters = {axis: 1e-6 * np.arange(n) for axis, n in zip("zyx", SHAPE, strict=True)}
    assert open_dataarray(placed("m", **meters)).grid.spacing_um == pytest.approx((1.0,) * 3)
    meters["y"][7] += 1e-9
    with pytest.raises(RequestError, match="array coordinate y: must be evenly spaced"):
        open_dataarray(placed("m", **meters))


ODD = [
    (placed("pixel"), r"z: its units 'pixel' are no known length; allowed: angstrom, "),
    (placed(y=np.arange(18)[::-1]), r"y descends, from 17 to 0; .* round: \.sortby\('y'\)"),
    (placed("mm", x=9 - np.arange(30.0) ** 2), r"x descends, from 9 to -832"),
    (
        placed(z=np.where(np.arange(20), np.arange(20), np.nan)),
        "z: float64 that are no finite numbers all",
    ),
    (placed(z=list("abcdefghijklmnopqrst")), r"z: <U1 that .* leave it out: \.drop_vars\('z'\)"),
    (placed(z=np.arange(20).astype("datetime64[s]")), r"z: datetime64\[.*\] that are no finite"),
]


@pytest.mark.parametrize("spacing_um", [None, (1.0, 1.0, 1.0)])
@pytest.mark.parametrize(("array", "says"), ODD, ids=[says[:20] for _, says in ODD])
def test_coordinates_that_are_refused(array, says, spacing_um):
    with pytest.raises(RequestError, match=f"^array coordinate {says}") as caught:
        open_dataarray(array, spacing_um)
    assert "\n" not in str(caught.value)


def test_uneven_coordinates_need_a_spacing():
    array = placed(y=np.arange(18) ** 2)
    with pytest.raises(RequestError, match="array coordinate y: must be evenly spaced"):
        open_dataarray(array)
    grid = open_dataarray(array, (1.0, 2.0, 3.0)).grid
    assert (grid.spacing_um, grid.origin_um) == ((1, 2, 3), (5, 0, 5))
