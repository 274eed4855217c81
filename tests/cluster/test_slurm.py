"""Workers as jobs of a real Slurm."""

import json
import subprocess
import sys

import pytest

from tests.assertions import read_files
from tests.clusters import same_image, says, slurm, until
from thc_dask import convert
from thc_dask.cluster import running
from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError

HERE = {
    "scheduler_options": {"host": "127.0.0.1:0", "dashboard_address": "127.0.0.1:0"},
    "worker_extra_args": ["--host", "127.0.0.1"],
}
DASK = {"distributed.deploy.lost-worker-timeout": "200ms"}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Slurm on this node, found by the commands of this process."""
    with slurm(tmp_path_factory.mktemp("slurm")) as env, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def settings(tmp_path):
    """Two jobs of one worker each."""
    options = HERE | {"shared_temp_directory": str(tmp_path), "log_directory": str(tmp_path)}
    return Settings("slurm:2", "slurm", workers=2, memory_bytes=2**30, options=options, dask=DASK)


def jobs():
    """Return the ids of the jobs that run."""
    return (says("squeue", "-h", "-t", "RUNNING", "-o", "%i") or "").split()


def test_convert_and_count_run_as_jobs(batch, settings, build, expected, tmp_path):
    _, files = expected
    with running(settings) as client:
        client.wait_for_workers(2)
        assert len(jobs()) == 2
        assert client.scheduler.address.startswith("tls://")
        made = build(tmp_path / "v.ome.zarr")
    until(lambda: not (says("squeue", "-h") or "").strip())
    assert made == files
    assert list(tmp_path.glob("**/*.pem")) == []  # keys go with what they were for


def test_a_job_that_is_cancelled_is_survived_and_replaced(
    batch, settings, volume, expected, tmp_path
):
    source, layout = volume
    store, struck = tmp_path / "v.ome.zarr", []

    def cancel(done, total):
        if done > total // 4 and not struck:
            struck.append(jobs()[0])
            subprocess.run(["scancel", struck[0]], check=True)

    with running(settings) as client:
        client.wait_for_workers(2)
        convert(source, store, **layout, progress=cancel)
        assert struck
        until(lambda: len(client.nthreads()) == 2 and struck[0] not in jobs())
        assert len(jobs()) == 2
    assert same_image(read_files(store), expected[1])


def test_a_job_that_is_refused_is_one_error(batch, settings):
    options = {**settings.options, "queue": "nowhere"}
    with (
        pytest.raises(FailureError, match=r"a job was refused: .*invalid partition"),
        running(Settings("slurm", "slurm", workers=1, options=options, dask=DASK)),
    ):
        pass
    assert not (says("squeue", "-h") or "").strip()


def test_a_command_that_is_told_to_end_leaves_no_job_and_no_key(batch, profiles, tmp_path):
    options = HERE | {"shared_temp_directory": str(tmp_path), "log_directory": str(tmp_path)}
    profile = {"kind": "slurm", "workers": 2, "memory": "1GiB", "options": options}
    profiles(json.dumps({"thc_dask": {"clusters": {"mine": profile}}}))  # which is YAML too
    store = tmp_path / "v.ome.zarr"
    command = [sys.executable, "-m", "thc_dask", "convert", "phantom:256,1024,1024", store]
    with subprocess.Popen(
        [*command, "--cluster", "mine"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running_:
        until(lambda: list(store.glob("thc/receipts/image/*/*.json")))
        running_.terminate()
        _, err = running_.communicate(timeout=120)
    assert (running_.returncode, err.splitlines()[-1]) == (143, "thc convert: terminated")
    until(lambda: not (says("squeue", "-h") or "").strip())
    assert list(tmp_path.glob("**/*.pem")) == []
