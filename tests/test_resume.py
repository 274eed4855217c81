"""A conversion that ends early, however it ends, goes on where it was."""

import json
import os
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from tests.assertions import read_files
from tests.strategies import Failing
from thc_dask import convert, open_volume, verify
from thc_dask.convert import write_store
from thc_dask.errors import ExistsError, MissingError, RequestError, UnfinishedError
from thc_dask.sources import open_reader
from thc_dask.store import publish
from thc_dask.store.location import locate

SOURCE = "phantom:100,120,300?seed=2"
SIZES = {"levels": 5, "chunk": (16, 16, 16), "shard": (64, 64, 64)}
RUN = """
import sys
from thc_dask.convert import write_store
write_store(sys.argv[1], sys.argv[2], levels=5, chunk=(16,) * 3, shard=(64,) * 3, resume=True,
            progress=lambda done, total: print(done, flush=True))
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = tmp_path_factory.mktemp("resume") / "v.ome.zarr"
    write_store(SOURCE, store, **SIZES)
    return read_files(store)


@pytest.mark.parametrize("n", [0, 1, 3, 5, 8, 11, 14])
def test_what_failed_goes_on_and_ends_in_the_same_bytes(tmp_path, undisturbed, n):
    store, reader = tmp_path / "v.ome.zarr", open_reader(SOURCE)
    with pytest.raises(OSError, match="went away"):
        write_store(Failing(reader, n), store, **SIZES)
    with pytest.raises(UnfinishedError, match="--resume"):
        open_volume(store)
    finished = {k: v for k, v in read_files(store).items() if "/image/c/" in k}
    times = {k: (store / k).stat().st_mtime_ns for k in finished}
    receipts = "".join(v.decode() for k, v in read_files(store).items() if "thc/receipts" in k)
    write_store(reader, store, resume=True, **SIZES)
    assert read_files(store) == undisturbed
    for key in finished:
        if key in receipts:  # only what has a receipt is known to be whole
            assert (store / key).stat().st_mtime_ns == times[key]


@pytest.mark.parametrize("after", range(4))
def test_killed_processes_leave_what_can_be_resumed(tmp_path, undisturbed, after):
    store = tmp_path / "v.ome.zarr"
    command = [sys.executable, "-c", RUN, SOURCE, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(after):
            process.stdout.readline()
        process.kill()
    if process.returncode == -signal.SIGKILL:
        with pytest.raises((UnfinishedError, FileNotFoundError)):
            open_volume(store)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert read_files(store) == undisturbed
    assert verify(store)["whole"]


def test_what_ended_while_its_plan_was_written_has_not_begun(tmp_path, undisturbed):
    for options in ({}, {"resume": True}, {"overwrite": True}):
        store = tmp_path / f"{len(list(tmp_path.iterdir()))}.ome.zarr"
        (store / "thc").mkdir(parents=True)
        (store / "thc/plan.json.0a1b2c3d.partial").write_text('{"soft')
        with pytest.raises(MissingError):
            open_volume(store)
        write_store(SOURCE, store, **options, **SIZES)
        assert read_files(store) == undisturbed


def test_what_was_to_be_overwritten_and_is_half_gone_is_gone_on_with(tmp_path, undisturbed):
    store = tmp_path / "v.ome.zarr"
    write_store("phantom:64,64,128", store, **SIZES)
    removed, location = [], locate(store)

    def delete(key):
        removed.append(key)
        raise OSError("power cut")

    location.delete = delete
    with pytest.raises(OSError, match="power cut"):
        publish.begin(location, {"of": "the new one"}, overwrite=True)
    assert removed
    assert not (store / "zarr.json").exists()
    write_store(SOURCE, store, resume=True, **SIZES)
    assert read_files(store) == undisturbed


def test_a_finished_store_has_nothing_to_resume(tmp_path, undisturbed):
    store = tmp_path / "v.ome.zarr"
    write_store(SOURCE, store, resume=True, **SIZES)
    times = {k: (store / k).stat().st_mtime_ns for k in undisturbed}
    write_store(SOURCE, store, resume=True, **SIZES)
    assert {k: (store / k).stat().st_mtime_ns for k in undisturbed} == times


@pytest.mark.parametrize(
    ("source", "options", "what"),
    [
        ("phantom:100,120,300?seed=3", {}, "seed was 2 .* is 3 now"),
        (SOURCE, {"levels": 4}, "levels was 5 .* is 4 now"),
        (SOURCE, {"codec": "zstd:3"}, "codec was zstd .* is zstd:3 now"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_source_or_option_is_noticed(tmp_path, source, options, what, finished):
    store = tmp_path / "v.ome.zarr"
    if finished:
        write_store(SOURCE, store, **SIZES)
    else:
        with pytest.raises(OSError, match="went away"):
            write_store(Failing(open_reader(SOURCE), 3), store, **SIZES)
    before = read_files(store)
    with pytest.raises(RequestError, match=what):
        write_store(source, store, resume=True, **(SIZES | options))
    assert read_files(store) == before


def slices(folder, seed=0):
    folder.mkdir()
    voxels = np.random.default_rng(seed).integers(0, 255, (40, 40, 50), np.uint8)
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"{z:03}.tif", plane)


def hdf5(path):
    with h5py.File(path, "w") as file:
        file["v"] = np.random.default_rng(1).integers(0, 255, (40, 40, 50), np.uint8)


def tiles(path):
    """Write tiles whose axes are in another order: their own record is nested."""
    found = []
    for i in (0, 1):
        voxels = np.random.default_rng(i).integers(0, 255, (40, 40, 30), np.uint8)
        zarr.create_array(
            path.parent / f"{i}.zarr",
            data=voxels,
            chunks=(10, 10, 10),
            dimension_names=["x", "y", "z"],
        )
        found.append({"path": f"{i}.zarr", "offset": [20 * i, 0, 0]})
    path.write_text(json.dumps({"tiles": found}))


SPELLED = {
    "sl": ("sl/", "./sl", "{here}/sl", "../{name}/sl"),
    "v.h5": ("./v.h5", "{here}/v.h5"),
    "v.npy": ("{here}/v.npy",),
    "0.zarr": ("0.zarr/", "{here}/0.zarr"),
    "mosaic.json": ("./mosaic.json", "{here}/mosaic.json"),
}
SMALL = {"levels": 2, "chunk": (8, 8, 8), "shard": (16, 16, 16), "spacing": "1um"}


@pytest.fixture
def sources(tmp_path, monkeypatch):
    slices(tmp_path / "sl")
    hdf5(tmp_path / "v.h5")
    np.save(tmp_path / "v.npy", np.arange(40 * 40 * 50, dtype=np.uint16).reshape(40, 40, 50))
    tiles(tmp_path / "mosaic.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("flip", ["", "z"])
@pytest.mark.parametrize("name", SPELLED)
def test_a_source_may_be_named_otherwise_and_ends_in_the_same_bytes(sources, name, flip):
    options = SMALL | {"flip": flip}
    write_store(name, "whole.ome.zarr", **options)
    undisturbed = read_files("whole.ome.zarr")
    for other in SPELLED[name]:
        with pytest.raises(OSError, match="went away"):
            write_store(Failing(open_reader(name, (1, 1, 1)), 1), "v.ome.zarr", **options)
        spelled = other.format(here=sources, name=sources.name)
        write_store(spelled, "v.ome.zarr", resume=True, **options)
        assert read_files("v.ome.zarr") == undisturbed
        write_store(spelled, "v.ome.zarr", resume=True, **options)  # there is nothing to do
        shutil.rmtree("v.ome.zarr")


def test_other_files_in_a_folder_like_it_are_another_source(sources):
    """Names, sizes and times may be the same, as they are of files from an archive."""
    slices(sources / "other", seed=1)
    for folder in ("sl", "other"):
        for path in (sources / folder).iterdir():
            os.utime(path, (10**9, 10**9))
    with pytest.raises(OSError, match="went away"):
        write_store(Failing(open_reader("sl", (1, 1, 1)), 1), "v.ome.zarr", **SMALL)
    with pytest.raises(RequestError, match=r"the source's location was sl .* is other now"):
        write_store("other", "v.ome.zarr", resume=True, **SMALL)


def test_it_does_not_matter_where_a_run_goes_on(sources, monkeypatch):
    write_store("sl", "whole.ome.zarr", **SMALL)
    with pytest.raises(OSError, match="went away"):
        write_store(Failing(open_reader("sl", (1, 1, 1)), 1), "v.ome.zarr", **SMALL)
    monkeypatch.chdir(sources / "sl")
    write_store("../sl", "../v.ome.zarr", resume=True, **SMALL)
    assert read_files("../v.ome.zarr") == read_files("../whole.ome.zarr")


def test_to_go_on_and_to_begin_anew_are_not_asked_at_once(tmp_path):
    with pytest.raises(RequestError, match=r"overwrite and resume: .*give one"):
        write_store(SOURCE, tmp_path / "v.ome.zarr", resume=True, overwrite=True, **SIZES)


def test_the_second_of_two_writers_is_refused(tmp_path):
    store = tmp_path / "v.ome.zarr"
    with (
        locate(store).lock(),
        pytest.raises(ExistsError, match="being written by another process"),
    ):
        convert(SOURCE, store, **SIZES)
    convert(SOURCE, store, **SIZES)
    np.testing.assert_array_equal(np.asarray(open_volume(store)["0/image"].shape), (100, 120, 300))
