"""``thc cluster``: what it prints, what it measures, what it leaves: nothing."""

import json
from dataclasses import asdict

import pytest

from tests.assertions import read_files
from thc_dask import cli
from thc_dask.cluster.check import check
from thc_dask.cluster.expect import RATIO, Rates, expect
from thc_dask.errors import RequestError
from thc_dask.grid import Grid
from thc_dask.store.layout import default_levels, make_levels


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, which must succeed, and gives what it prints."""

    def run(*arguments):
        assert cli.run(["cluster", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


def test_show_names_kinds_and_profiles(profiles, run):
    file = profiles("thc_dask: {clusters: {mine: {kind: local, workers: 2}}}")
    out = run("show")
    assert "local[:N]" in out
    assert f"mine: local, {file}" in out
    assert json.loads(run("show", "--json"))["profiles"] == {"mine": f"local, {file}"}
    out = run("show", "mine")
    assert "workers: 2" in out
    assert "starts:\n  distributed.LocalCluster(n_workers=2" in out
    assert run("show", "slurm:2", "--dry-run").startswith("#!/usr/bin/env bash")
    found = json.loads(run("show", "slurm:2", "--json"))
    assert (found["kind"], found["workers"]) == ("slurm", 2)
    assert found["starts"].startswith("#!/usr/bin/env bash")


def test_init_makes_the_file_of_profiles(profiles, run, tmp_path, capsys):
    assert run("init") == f"written: {tmp_path}/settings/thc_dask.yaml\n"
    assert cli.run(["cluster", "init"]) == 2
    assert "exists; change it" in capsys.readouterr().err
    assert cli.run(["cluster", "init", "slurm"]) == 2


def test_check_measures_and_leaves_nothing(profiles, run, expected):
    store, files = expected
    found = json.loads(run("check", "local:2", "--store", store, "--shape", "64,64,64", "--json"))
    assert read_files(store) == files
    assert (found["n_workers"], found["n_hosts"], found["n_threads"]) == (2, 1, 2)
    assert found["disagreements"] == []
    assert found["task_bytes"] > 2**24
    for name in ("task_s", "codec_bytes_per_s", "write_bytes_per_s", "read_bytes_per_s"):
        assert found[name] > 0, name
    assert found["expected"]["shape"] == [64, 64, 64]
    assert found["expected"]["most_seconds"] >= found["expected"]["seconds"] > 0


def test_check_of_a_store_that_is_not_there_makes_none(profiles, run, tmp_path):
    out = run("check", "threads", "--store", tmp_path / "new.ome.zarr")
    assert "every worker sees it" in out
    assert "720 x 1,420 x 5,805 voxels" in out
    assert not (tmp_path / "new.ome.zarr").exists()
    out = run("check")
    assert "write" not in out.replace("written", "")
    assert "versions  the same everywhere" in out


def test_check_refuses_what_cannot_be_written():
    with pytest.raises(RequestError, match="read"):
        check("threads", "https://example.org/v.ome.zarr")


@pytest.mark.parametrize(
    ("rates", "bound"),
    [
        (Rates(1e6, 1e-3, 1e9, 1e9), "compressing"),
        (Rates(1e9, 1e-3, 1e6, 1e9), "writing"),
        (Rates(1e9, 1e-3, 1e9, 1e6), "reading"),
        (Rates(1e9, 10, 1e9, 1e9), "handing out tasks"),
        (Rates(1e9, 1e-3), "compressing"),
    ],
)
def test_what_is_expected_follows_from_rates(rates, bound):
    shape = (512, 1024, 1024)
    e = expect(shape, rates, itemsize=2)
    grid = Grid(shape, (1.0, 1.0, 1.0))
    levels = make_levels(grid, default_levels(grid), (64, 64, 64), (256, 256, 256))
    all_bytes = 2 * sum(level.grid.n_vox for level in levels)
    assert e.read_bytes == 2 * grid.n_vox
    assert e.write_bytes == round(all_bytes / RATIO)
    assert e.n_tasks == 2 * 4 * 4  # shards of level 0: one wave makes all levels
    parts = {
        "compressing": all_bytes / rates.codec_bytes_per_s,
        "handing out tasks": e.n_tasks * rates.task_s,
        "writing": e.write_bytes / (rates.write_bytes_per_s or float("inf")),
        "reading": e.read_bytes / (rates.read_bytes_per_s or float("inf")),
    }
    assert e.bound == bound == max(parts, key=parts.get)
    assert e.seconds == parts[bound]
    assert e.most_seconds == pytest.approx(sum(parts.values()))
    assert asdict(e)["shape"] == shape
