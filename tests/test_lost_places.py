"""A disk that fills up, a mount or a source that is lost, while a command runs: one line, exit code
1, and what is left goes on to the same bytes once the place is well again."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import tifffile

from tests.assertions import read_files
from thc_dask import cli, open_volume, verify
from thc_dask.cli.progress import Meter
from thc_dask.errors import UnfinishedError
from thc_dask.store import write

OPTIONS = ["--spacing", "1um", "--levels", "3", "--chunk", "16", "--shard", "32"]


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slices")
    voxels = np.random.default_rng(3).integers(1, 200, (96, 64, 64), np.uint8)
    for z, plane in enumerate(voxels):
        tifffile.imwrite(folder / f"z{z:02}.tif", plane)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slices, tmp_path_factory):
    store = tmp_path_factory.mktemp("undisturbed") / "v"
    assert cli.run(["convert", str(slices), str(store), *OPTIONS]) == 0
    return read_files(store)


@pytest.fixture
def during(monkeypatch):
    """Return a function that says what is to happen once, after so many reports of progress."""

    def set_up(event, after=2):
        left, watch = [event], Meter.watch

        def watching(self, standing):
            watch(self, standing)
            if left and standing.done > standing.kept and standing.done >= after:
                left.pop()()

        monkeypatch.setattr(Meter, "watch", watching)
        # Columns are waited for, so what is reported has hardly been read past.
        monkeypatch.setattr(write, "MOST_COMMITS", 0)

    return set_up


@pytest.fixture
def convert(capsys):
    """Return a function that runs ``thc convert`` and gives its exit code and last line."""

    def run(source, store, *more):
        capsys.readouterr()
        code = cli.run(["convert", str(source), str(store), *OPTIONS, *more])
        _, err = capsys.readouterr()
        lines = [x for x in err.splitlines() if not x.startswith("convert:")]
        assert len(lines) == (code != 0), err
        return code, "".join(lines)

    return run


def mount(*arguments):
    if not (shutil.which("mount") and os.geteuid() == 0):
        pytest.skip("mounting a file system needs root and mount")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")


def assert_unfinished(store):
    with pytest.raises(UnfinishedError, match="--resume"):
        open_volume(store)
    assert not list(store.rglob("*.partial"))


def assert_goes_on(convert, slices, store, undisturbed):
    """Resume, and hold what is there against the undisturbed run; nothing is made twice."""
    known = "".join(p.read_text() for p in store.glob("thc/receipts/image/*/*.json"))
    before = {k: (store / k).stat().st_mtime_ns for k in undisturbed if f'"{k}"' in known}
    assert before
    assert convert(slices, store, "--resume")[0] == 0
    assert {k: (store / k).stat().st_mtime_ns for k in before} == before
    assert read_files(store) == undisturbed
    assert verify(store)["problems"] == []


def test_a_full_disk(convert, slices, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    try:
        store, filler = disk / "v", disk / "filler"
        filler.write_bytes(b"\1" * 600_000)
        code, line = convert(slices, store)
        assert code == 1
        assert line.startswith(f"thc convert: cannot write {store}/"), line
        assert line.endswith("is full; free space, then run it again "
                             "(--resume goes on where it stopped)")  # fmt: skip
        assert_unfinished(store)
        filler.unlink()
        assert_goes_on(convert, slices, store, undisturbed)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("inside", ["v", ""], ids=["in it", "it itself"])
def test_a_mount_that_is_lost(convert, slices, undisturbed, during, tmp_path, inside):
    """Nothing is written to the mount point that is left, which is of another disk."""
    real, point = tmp_path / "real", tmp_path / "point"
    real.mkdir()
    point.mkdir()
    mount("--bind", real, point)
    lost = []

    def lose():
        subprocess.run(["umount", "-l", point], check=True)
        lost.append(point)

    try:
        during(lose)
        code, line = convert(slices, point / inside)
        assert code == 1, line
        assert lost
        assert line.startswith("thc convert: cannot write "), line
        assert "a mount that was lost?); bring it back, then run it again" in line
        assert list(point.iterdir()) == []
        assert (real / inside / "thc/plan.json").exists()
        with pytest.raises(UnfinishedError, match="--resume"):
            open_volume(real / inside)
        mount("--bind", real, point)
        lost.clear()
        assert_goes_on(convert, slices, point / inside, undisturbed)
    finally:
        if not lost:
            subprocess.run(["umount", "-l", point], check=True)


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_a_source_that_is_lost(convert, slices, undisturbed, during, tmp_path, how):
    folder = shutil.copytree(slices, tmp_path / "slices")  # times are copied, too
    store, last = tmp_path / "v", folder / "z95.tif"
    kept = shutil.copy2(last, tmp_path / "kept.tif")

    def lose():
        if how == "gone":
            last.unlink()
        else:
            data = last.read_bytes()
            last.write_bytes(data[:-100] if how == "cut" else data[:-1] + bytes([data[-1] ^ 1]))

    during(lose)
    code, line = convert(folder, store)
    assert code == 1
    said = "was there at opening, now: No such file" if how == "gone" else "has changed since"
    assert line.startswith(f"thc convert: slices: plane 95: {last} {said}"), line
    said = "--resume goes on where it stopped if the source is what it was, --overwrite from anew"
    assert line.endswith(f"({said})")
    assert_unfinished(store)
    code, line = convert(folder, store, "--resume")
    assert code == (1 if how == "cut" else 2)  # as it is now it is no source, or another
    assert (f"{last} is truncated" if how == "cut" else f"{store}: the source's ") in line
    shutil.copy2(kept, last)
    found = read_files(store)
    assert convert(folder, store, "--resume")[0] == 0
    assert verify(store)["problems"] == []
    shards = {k: v for k, v in read_files(store).items() if "/c/" in k}
    assert shards == {k: v for k, v in undisturbed.items() if "/c/" in k}
    assert {k for k in found if "/image/c/" in k} <= set(shards)
