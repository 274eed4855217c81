"""deploy/slurm/thc.sbatch on a real Slurm: one job is scheduler, workers and command."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.assertions import read_files
from tests.clusters import LIMIT_S, OUR, same_image, says, slurm, until
from thc_dask import convert

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "thc.sbatch"
LAYOUT = ["--levels", "2", "--chunk", "16,16,16", "--shard", "32,32,32"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A function that submits the script in a folder, and the environment of its Slurm."""
    top = tmp_path_factory.mktemp("slurm")
    top.chmod(0o755)
    with slurm(top) as env:
        # The nodes find `dask` and `thc` on the PATH, as an environment puts them there.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        full = os.environ | env | OUR | {"PATH": path}

        def submit(folder, *words):
            out = folder / "job.out"
            options = ["--ntasks=2", "--mem-per-cpu=1000", f"--output={out}", "--parsable"]
            (folder / "home").mkdir(exist_ok=True)
            done = subprocess.run(
                ["sbatch", *options, str(SCRIPT), *map(str, words)], capture_output=True,
                text=True, check=True, cwd=folder, env=full | {"HOME": str(folder / "home")},
            )  # fmt: skip
            return done.stdout.strip(), out

        yield submit, full


def state(job, env):
    """Return how Slurm calls the state of a job."""
    said = says("scontrol", "show", "job", job, env=env) or ""
    return said.partition("JobState=")[2].partition(" ")[0]


def ended(job, env):
    """Wait for a job to end and return how it did."""
    done = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
    return until(lambda: (found := state(job, env)) in done and found, 3 * LIMIT_S)


def shared(folder):
    """Return what lies where the nodes find the key of a job."""
    return sorted((folder / "home" / ".cache" / "thc_dask").glob("*"))


def modes(folder):
    """Return the permissions of a job's folder and of what is in it."""
    return {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.glob("*.pem"))}


def test_a_command_that_fails_fails_the_job(batch, tmp_path):
    submit, full = batch
    cache = tmp_path / "home" / ".cache" / "thc_dask"
    expired, others = cache / "thc-thc-7-aaaaaa", cache / "thc-thc-8-bbbbbb"
    for folder in (expired, others):
        folder.mkdir(parents=True)
        (folder / "key.pem").touch()
    long_ago_s = time.time() - 40 * 24 * 3600
    os.utime(expired, (long_ago_s, long_ago_s))
    job, out = submit(tmp_path, "verify", tmp_path / "nowhere.ome.zarr")
    assert ended(job, full) == "FAILED"
    assert "nowhere.ome.zarr" in out.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"job.out", "home"}
    assert shared(tmp_path) == [others]


def test_time_that_is_up_puts_the_job_back_and_it_goes_on(batch, tmp_path):
    submit, full = batch
    store = tmp_path / "there.ome.zarr"
    shape = "phantom:64,512,512"
    words = ["convert", shape, store, *LAYOUT, "--resume"]
    job, out = submit(tmp_path, *words)
    [folder] = until(lambda: shared(tmp_path))
    until(lambda: (folder / "scheduler.json").exists())
    assert modes(folder) == {folder.name: 0o700, "key.pem": 0o600, "certificate.pem": 0o600}
    killed = folder.with_name(f"{folder.name[:-6]}killed")
    killed.mkdir()
    until(lambda: list(store.glob("thc/receipts/image/0/*.json")) or store_is_whole(store))
    subprocess.run(["scancel", "--batch", "--signal=TERM", job], env=full, check=True)
    if (
        until(lambda: (found := state(job, full)) in ("PENDING", "COMPLETED") and found)
        == "PENDING"
    ):
        assert "requeued, --resume goes on" in out.read_text()
        # Slurm would let it wait for two minutes.
        subprocess.run(
            ["scontrol", "update", f"jobid={job}", "StartTime=now"], env=full, check=True
        )
    assert ended(job, full) == "COMPLETED", out.read_text()
    assert "tls://" in out.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"there.ome.zarr", "job.out", "home"}
    assert set(shared(tmp_path)) <= {killed}
    assert not killed.exists() or "requeued" not in out.read_text()
    assert store.stat().st_mode & 0o077, "who may read the store is as ever"
    convert(
        shape, str(tmp_path / "here.ome.zarr"),
        levels=2, chunk=(16, 16, 16), shard=(32, 32, 32),
    )  # fmt: skip
    assert same_image(read_files(store), read_files(tmp_path / "here.ome.zarr"))


def store_is_whole(store):
    return (store / "zarr.json").exists() and not (store / "thc" / "receipts" / "image").exists()
