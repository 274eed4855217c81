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


def test_floor(work, store):
    convert = run("floor.py", "convert", work / "input", "--work", work)
    assert convert["wall_s"] == pytest.approx(sum(convert["stages_wall_s"].values()))
    assert set(convert["stages_wall_s"]) == {"read", "gather", "mean", "encode", "write"}
    count = run("floor.py", "count", store)
    assert count["wall_s"] > 0
    assert count["n_chunks"] >= 2
