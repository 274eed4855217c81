"""The benchmarks run, tiny, in this environment, and their checks can tell right from wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHAPE = (32, 64, 96)


def run(script, *arguments):
    line = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    run("make_input.py", folder, "--shape", ",".join(map(str, SHAPE)))
    return folder


@pytest.fixture(scope="module")
def store(work):
    """Image and labels as the store holds them, written by TensorStore."""
    target = work / "volume"
    run("peers/tensorstore_convert.py", work / "input", target)
    to_labels = [work / "labels", target / "labels" / "roi", "--levels", 1, "--array", "roi"]
    run("peers/tensorstore_convert.py", *to_labels)
    return target


def test_input_is_the_same_every_time(work, tmp_path):
    facts = run("make_input.py", tmp_path, "--shape", "32,64,96")
    assert facts["shape"] == list(SHAPE)
    for file in ("input/z0000.tif", "input/z0031.tif", "labels/z0016.tif"):
        again = tifffile.imread(tmp_path / file)
        assert np.array_equal(tifffile.imread(work / file), again)
    other = run("make_input.py", tmp_path, "--shape", "32,64,96", "--seed", 1)
    assert other["seed"] == 1
    assert not np.array_equal(
        tifffile.imread(work / "input/z0000.tif"), tifffile.imread(tmp_path / "input/z0000.tif")
    )


def test_conversion_is_checked(work, store):
    found = run("compare.py", "convert", work / "input", store)
    assert found["agrees"]
    assert found["shapes"][1] == [16, 32, 48]
    wrong = work / "wrong"
    wrong.mkdir()
    for file in sorted((work / "input").iterdir()):
        tifffile.imwrite(wrong / file.name, tifffile.imread(file) ^ 1)
    assert not run("compare.py", "convert", wrong, store)["agrees"]


def test_count_is_checked(work, store):
    table = work / "table.npy"
    run("peers/tensorstore_count.py", store, table)
    assert run("compare.py", "count", work / "truth.npy", table)["agrees"]
    np.save(table, np.load(table)[::-1])
    assert not run("compare.py", "count", work / "truth.npy", table)["agrees"]


def test_a_tool_that_groups_counts_the_same(work, store):
    """The others have environments of their own; each run of the benchmark checks them."""
    table = work / "scipy.npy"
    run("peers/grouped_count.py", store, table, "--how", "scipy")
    assert run("compare.py", "count", work / "truth.npy", table)["agrees"]


def test_floor(work, store):
    convert = run("floor.py", "convert", work / "input", "--work", work)
    assert convert["wall_s"] == pytest.approx(sum(convert["stages_wall_s"].values()))
    assert set(convert["stages_wall_s"]) == {"read", "gather", "mean", "encode", "write"}
    count = run("floor.py", "count", store)
    assert count["wall_s"] > 0
    assert count["n_chunks"] >= 2


def test_interpolation_is_measured(tmp_path):
    found = run("bench_interpolate.py", "--shape", "36,48,96", "--work", tmp_path)
    assert found["wall_s"] > 0
    assert found["peak_bytes"] > 2**20
    assert found["agreement"]["right"] > 0.9
    assert 0.5 < found["agreement"]["known"] <= 1
    assert found["leave_one_out"]["regions"]["CTX"]["dice"] > 0.9
    assert not (tmp_path / "volume.ome.zarr").exists()


@pytest.mark.parametrize("layout", ["plain", "deflate"])
def test_hdf5_to_eight_bit(tmp_path, layout):
    size = ["--shape", "32,64,96", "--runs", 1, "--work", tmp_path, "--layout", layout]
    found = run("bench_hdf5.py", *size)
    assert found["check"]["agrees"]
    assert found["reached"] == pytest.approx(found["limit_s"] / found["wall_s"])
    assert len(found["limits"]) == 2
    assert all(one["read_once_s"] > 0 and one["encode_s"] > 0 for one in found["limits"])


def test_bossdb_with_latency(tmp_path):
    pytest.importorskip("intern", reason="the extra bossdb is not installed")
    size = ["--shape", "32,600,520", "--runs", 1, "--work", tmp_path, "--latency-ms", 20]
    found = run("bench_bossdb.py", *size)
    assert found["agrees"]
    assert found["n_cutouts"] == 8
    # One after the other, every cutout waits.
    assert found["bare_one_by_one_s"] > found["sum_of_waits_s"] == pytest.approx(0.16)


def test_intervals_hold_what_they_promise_on_the_phantom():
    """A light version of the simulation that docs/statistics.md records."""
    options = {"shape": "96,64,128", "planes": 11, "draws": 60, "thin": 60, "resamples": 199}
    found = run("intervals.py", *(f"--{name}={value}" for name, value in options.items()))
    held = {(r["what"], r["drawn"], r["block"]): r["coverage"] for r in found["coverage"]}
    # eleven planes, and structures that few of them hold: narrower than it says, not wrong
    assert 0.72 <= held["fractions", "apart", 1] <= 1.0
    assert held["fractions", "neighbours", 16] > held["fractions", "neighbours", 1]
    [test] = found["tests"]
    assert test["share"] <= 0.16  # of 60 at 0.05: an error of 0.03
