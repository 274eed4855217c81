"""Workers of this machine: the same bytes from every kind of cluster, whatever is killed."""

import json
import os
import random
import signal
import time
from contextlib import ExitStack

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from tests.assertions import read_files
from tests.clusters import (
    as_root,
    dask_scheduler,
    dask_worker,
    program,
    same_image,
    until,
)
from tests.object_storage import free_ports
from tests.strategies import Watched, source
from thc_dask import cli, convert, histogram, schedule
from thc_dask.cluster import running
from thc_dask.cluster.settings import Settings
from thc_dask.errors import DataError, FailureError
from thc_dask.grid import Box

PORTS = {"dashboard_address": "127.0.0.1:0"}
HERE = {"host": "127.0.0.1"} | PORTS


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A scheduler that runs by itself, with two workers; the file that it wrote."""
    folder = tmp_path_factory.mktemp("pair")
    with (
        dask_scheduler(folder) as (_, file),
        dask_worker(folder, file, name="a"),
        dask_worker(folder, file, name="b"),
    ):
        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2)
        yield file


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and gives its exit code, output and errors."""

    def run(*arguments):
        code = cli.run([str(a) for a in arguments])
        return code, *capsys.readouterr()

    return run


def test_commands_on_a_scheduler_that_runs_make_the_same_bytes(
    pair, volume, expected, tmp_path, run
):
    origin, _ = volume
    store, address = tmp_path / "v.ome.zarr", json.loads(pair.read_text())["address"]
    form = ["--chunk", "8", "--shard", "16", "--levels", "3"]
    for spec, line in (
        (address, ["convert", origin, store, *form]),
        (f"scheduler-file:{pair}", ["labels", f"{origin}?channel=roi", store, "--name", "roi",
                                    "--scheme", "prasad2020-roi"]),
        (address, ["count", store]),
        (address, ["verify", store]),
    ):  # fmt: skip
        code, _, err = run(*line, "--cluster", spec)
        assert code == 0, err
        assert [text for text in err.splitlines() if not text.startswith(line[0])] == []
    assert read_files(store) == expected[1]
    assert schedule.current_client() is None
    box = Box((2.5, 3, 1), (15, 40, 60))
    code, out, _ = run(
        "histogram", store, "--box", "2.5:15,3:40,1:60", "--json", "--cluster", address
    )
    assert code == 0
    rows = json.loads(out)["rows"]
    assert sum(row["count"] for row in rows) == int(histogram(expected[0], box=box).sum())


def test_what_is_local_is_started_and_ended(profiles, build, expected, tmp_path):
    with running("local:2") as client:
        assert list(client.nthreads().values()) == [1, 1]
        pids = list(client.run(os.getpid).values())
        assert os.getpid() not in pids
        assert build(tmp_path / "v.ome.zarr") == expected[1]
        assert set(client.run_on_scheduler(_kept_messages)) == {10}
        assert client.run(_spill, workers=list(client.nthreads())[:1]) == {
            next(iter(client.nthreads())): [False, False]
        }
    for pid in pids:
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))


def _kept_messages(dask_scheduler):
    return [comm.recent_message_log.maxlen for comm in dask_scheduler.stream_comms.values()]


def _spill():
    return [dask.config.get(f"distributed.worker.memory.{key}") for key in ("target", "spill")]


def test_a_cluster_grows_with_its_work(profiles):
    """There is work until there are two workers."""
    with running(Settings("p", "local", minimum=1, maximum=2)) as client:
        assert len(client.nthreads()) == 1

        def grown():
            assert sorted(schedule.run(_slow, range(4))) == list(range(4))
            return len(client.nthreads()) == 2

        until(grown)


def _slow(item):
    time.sleep(0.4)
    return item


# ---- what may break -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_workers_are_killed_at_random(cluster, volume, expected, tmp_path, seed):
    """Half as many as there are reports of progress in four: some while they write."""
    origin, layout = volume
    rng, store, struck = random.Random(seed), tmp_path / "v.ome.zarr", []

    def strike(done, total):
        if len(struck) < 3 and rng.random() < 0.25:
            pids = [pid for pid in cluster.run(os.getpid, on_error="ignore").values()
                    if pid not in struck]  # fmt: skip
            if len(pids) > 1:
                struck.append(rng.choice(pids))
                os.kill(struck[-1], signal.SIGKILL)

    with cluster.as_current():
        convert(origin, store, **layout, progress=strike)
        cluster.wait_for_workers(2)
        assert struck
        assert same_image(read_files(store), expected[1])
        assert not list(store.rglob("*.partial"))


class Deadly(Watched):
    """A source that ends whoever reads a certain place of it."""

    def read_into(self, out, start):
        try:
            super().read_into(out, start)
        except DataError:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_ends_its_workers_is_named_with_its_memory(tmp_path):
    voxels = np.random.default_rng(3).integers(0, 256, (32, 32, 64), np.uint8)
    store, form = tmp_path / "v.ome.zarr", {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 1}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        running(Settings("local", "local", workers=2, options=HERE)),
        pytest.raises(FailureError) as raised,
    ):
        convert(Deadly(source(voxels), (20, 20, 40)), store, **form)
    said = str(raised.value)
    named = f"{store}: 0/image/c/1/1/0 to 0/image/c/1/1/3: "  # of a block, which is read once
    assert said.startswith(f"{named}a worker ended while working on nothing else (it was planned")
    assert said.endswith("(--resume goes on where it stopped)")


def test_blocks_are_planned_to_fit_into_workers(tmp_path):
    """With 1 GiB to plan with a block would be the whole volume; a worker has less."""
    voxels = np.random.default_rng(4).integers(0, 256, (64, 128, 1024), np.uint8)
    form = {"chunk": (16, 16, 16), "shard": (64, 64, 64), "levels": 1}
    with LocalCluster(
        n_workers=1, threads_per_worker=2, memory_limit="300MiB", **HERE
    ) as cluster, Client(cluster):  # fmt: skip
        task_bytes = schedule.task_bytes()
        assert task_bytes == (0.8 * 300 - 200) * 2**20 // 2
        assert schedule.room(2**30) == task_bytes
        assert schedule.room(2**20) == 2**20
        convert(source(voxels), tmp_path / "v.ome.zarr", **form)
    convert(source(voxels), tmp_path / "w.ome.zarr", **form)
    assert same_image(*(read_files(tmp_path / f"{name}.ome.zarr") for name in "vw"))


def test_workers_without_room_for_a_block_are_warned_of(tmp_path):
    """Warnings are errors in tests: what is warned of goes no further."""
    voxels = np.zeros((256, 256, 256), np.uint8)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=8, memory_limit="260MiB", processes=False, **PORTS
        ) as cluster,
        Client(cluster),
        pytest.raises(UserWarning, match=r"need .* and workers have 16 MiB for each; give them"),
    ):
        convert(source(voxels), tmp_path / "v.ome.zarr", chunk=(128, 128, 128), shard=(256,) * 3)


def test_a_scheduler_is_lost_and_another_goes_on(volume, expected, tmp_path):
    origin, layout = volume
    store, [port] = tmp_path / "v.ome.zarr", free_ports(1)
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        scheduler, file = first.enter_context(dask_scheduler(tmp_path, port=port))
        first.enter_context(dask_worker(tmp_path, file))

        def strike(done, total):
            if 3 * done >= total and scheduler.poll() is None:
                scheduler.kill()
                scheduler.wait()

        with (
            pytest.raises(FailureError, match=r"the scheduler at tcp://.* was lost.*--resume goes"),
            running(Settings("s", "scheduler-file", address=str(file), wait_s=5)),
        ):
            convert(origin, store, **layout, progress=strike)
        first.close()
        _, file = stack.enter_context(dask_scheduler(tmp_path, port=port))
        stack.enter_context(dask_worker(tmp_path, file, name="again"))
        begun = {k: store.joinpath(k).stat().st_mtime_ns for k in read_files(store) if "/c/" in k}
        assert begun
        with running(f"scheduler-file:{file}"):
            convert(origin, store, **layout, resume=True)
    assert same_image(read_files(store), expected[1])
    kept = [key for key, t in begun.items() if store.joinpath(key).stat().st_mtime_ns == t]
    assert len(kept) >= len(begun) // 2


# ---- what is wrong ------------------------------------------------------------------------


def test_nobody_at_an_address(run, tmp_path):
    [port] = free_ports(1)
    settings = Settings("s", "scheduler", address=f"tcp://127.0.0.1:{port}", wait_s=0.5)
    said = f"no scheduler answers at host 127.0.0.1, port {port} (tried for 0.5 s)"
    with pytest.raises(FailureError) as raised, running(settings):
        pass
    assert str(raised.value).startswith(said)
    file = tmp_path / "s.json"
    code, _, err = run("count", tmp_path, "--cluster", f"scheduler-file:{file}")
    remedy = f"start it with: dask scheduler --scheduler-file {file}"
    assert (code, err) == (2, f"thc count: {file} does not exist; {remedy}\n")
    file.write_text("{}")
    code, _, err = run("count", tmp_path, "--cluster", f"scheduler-file:{file}")
    assert (code, "names no address" in err) == (2, True)


def test_no_worker_comes(tmp_path):
    with (
        dask_scheduler(tmp_path) as (_, file),
        pytest.raises(FailureError, match=r"no worker came within 0\.3 s"),
        running(Settings("s", "scheduler-file", address=str(file), wait_s=0.3)),
    ):
        pass


def test_another_version_is_one_error(tmp_path):
    """A worker with another version of the package, as its metadata say."""
    info = tmp_path / "other" / "thc_dask-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thc_dask\nVersion: 9.9\n")
    env = [program("env", "coreutils"), f"PYTHONPATH={info.parent}"]
    with (
        dask_scheduler(tmp_path) as (_, file),
        dask_worker(tmp_path, file, prefix=env),
        pytest.raises(
            FailureError, match=r"the worker at tcp://.* has thc_dask 9\.9, this process"
        ),
        running(f"scheduler-file:{file}"),
    ):
        pass


def test_a_folder_that_a_worker_does_not_see(volume, tmp_path, run):
    """The worker lives where another disk is mounted over the folder of the store."""
    as_root("mount")
    origin, layout = volume
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = [program("unshare", "util-linux"), "-m", "sh", "-c",
               f'mount -t tmpfs none {folder} && exec "$@"', "sh"]  # fmt: skip
    with (
        dask_scheduler(tmp_path) as (_, file),
        dask_worker(tmp_path, file, prefix=mounted),
    ):
        spec = f"scheduler-file:{file}"
        form = ["--chunk", "8", "--shard", "16"]
        code, _, err = run("convert", origin, folder / "v.ome.zarr", *form, "--cluster", spec)
        assert code == 1
        assert f"sees nothing of it at {folder}/v.ome.zarr; put it where every host sees it" in err
        assert "worker at tcp://127.0.0.1:" in err
        convert(origin, folder / "v.ome.zarr", **layout, overwrite=True)
        code, _, err = run("verify", folder / "v.ome.zarr", "--cluster", spec)
        assert (code, "sees nothing of it at" in err) == (1, True)
        assert read_files(folder / "v.ome.zarr")
        code, _, err = run("cluster", "check", spec, "--store", folder / "new.ome.zarr")
        assert (code, "sees nothing of it at" in err) == (1, True)
        assert not (folder / "new.ome.zarr").exists()
