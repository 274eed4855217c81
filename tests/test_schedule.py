import operator
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest

from tests.assertions import read_files
from tests.strategies import Watched, source
from thc_dask import (
    compare,
    convert,
    count,
    fractions,
    histogram,
    labels,
    open_volume,
    schedule,
    summary,
)
from thc_dask.errors import DataError, UnfinishedError
from thc_dask.grid import Box
from thc_dask.schemes import Label, Scheme

SHAPE = (21, 24, 40)
LAYOUT = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 3}
TEXTS = ["note", "test"]
CUT = Box((2.5, 3, 1), (15, 20, 37))
REGIONS = Scheme("r", "region", (Label(0, "none"), Label(3, "a"), Label(70, "b")))
STRUCTURES = Scheme("s", "structure", (Label(0, "none"), Label(1, "c"), Label(2, "d")))


def build(store):
    """Make a store with all there is: two waves of each pyramid, labels added to, tables."""
    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, SHAPE, np.uint8)
    image[:16, :16] = 0
    convert(source(image, chunks=(10, 15, 40)), store, **LAYOUT)
    roi = source(rng.choice(REGIONS.codes, SHAPE).astype(np.uint8))
    labels(roi, store, "roi", REGIONS, planes=[1, 20])
    labels(roi, store, into="roi", planes=[2])
    micro = rng.choice(STRUCTURES.codes, SHAPE).astype(np.uint8)
    labels(source(micro), store, "microstructure", STRUCTURES)
    return read_files(store)


def ask_all(store):
    """Return answers that need voxels, computed."""
    asked = [
        histogram(store, box=CUT),
        histogram(store, box=CUT, by_plane=True),
        compare(store, box=CUT, n_resamples=99, n_permutations=99).drop_vars(TEXTS).to_array(),
        compare(store, of="microstructure", cubes="auto", n_resamples=99)["cohen_h_high"],
        fractions(store, box=CUT).drop_vars("note").to_array(),
        fractions(store, denominator="unclipped", n_resamples=99)["low"],
        summary(store, box=CUT, n_resamples=99).drop_vars("note").to_array(),
    ]
    return [answer.values for answer in dask.compute(*asked)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What threads of this process make and answer."""
    store = str(tmp_path_factory.mktemp("threads") / "v.ome.zarr")
    shards, answers = build(store), ask_all(store)
    count(store)
    return shards, answers, read_files(store)


def test_every_executor_makes_the_same_bytes_and_answers(tmp_path, executor, reference):
    shards, answers, everything = reference
    store = str(tmp_path / "v.ome.zarr")
    assert build(store) == shards
    for found, expected in zip(ask_all(store), answers, strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)
    count(store)
    assert read_files(store) == everything


def test_what_breaks_off_is_made_anew_and_nothing_of_it_is_left(tmp_path, executor):
    store, once = tmp_path / "v.ome.zarr", tmp_path / "once.ome.zarr"
    first, second = np.random.default_rng(12).integers(0, 256, (2, *SHAPE), np.uint8)
    with pytest.raises(DataError, match="the source is damaged"):
        convert(Watched(source(first), breaks_at=(17, 3, 39)), store, **LAYOUT)
    with pytest.raises(UnfinishedError):
        open_volume(store)
    for made in (store, once):
        convert(source(second), made, **LAYOUT, overwrite=True)
    assert read_files(store) == read_files(once)


def test_run_gives_the_result_of_every_item(executor):
    items = iter(range(100))
    assert sorted(schedule.run(partial(operator.mul, 3), items)) == list(range(0, 300, 3))
    assert list(schedule.run(partial(operator.mul, 3), [])) == []


def test_the_first_error_is_raised_and_the_rest_given_up(executor):
    taken = iter(range(10_000))
    with pytest.raises(ZeroDivisionError):
        for _ in schedule.run(partial(operator.truediv, 1), taken):
            pass
    # Item 0 fails. Only a few others were ever asked for.
    assert next(taken) <= 100


def test_work_is_local_only_in_threads_of_this_process(executor):
    assert schedule.is_local() is (executor == "threads")
    assert (schedule.current_client() is not None) is (executor == "cluster")


def test_a_client_that_is_nobodys_default_is_left_alone(cluster):
    assert schedule.current_client() is None
    with cluster.as_current():
        assert schedule.current_client() is cluster
    assert schedule.current_client() is None


def test_threads_run_side_by_side():
    """As many at a time as there are cores: each waits for the others."""
    barrier = threading.Barrier(schedule.n_threads())

    def meet(_):
        barrier.wait(30)
        return threading.get_ident()

    met = set(schedule.run(meet, range(schedule.n_threads())))
    assert len(met) == schedule.n_threads()


def test_synchronous_runs_here():
    with dask.config.set(scheduler="synchronous"):
        assert set(schedule.run(lambda _: threading.get_ident(), range(3))) == {
            threading.get_ident()
        }


LEAVE = """
import os, signal, time
from concurrent.futures import process
from contextlib import suppress
from pathlib import Path
import dask
from thc_dask import schedule

def holder(processes):
    # Of idle workers one waits in a read for what comes, the others for its lock.
    while alive := [p.pid for p in processes if p.is_alive()]:
        for pid in alive:
            with suppress(OSError):
                if Path(f"/proc/{pid}/syscall").read_text().startswith("0 "):
                    return pid
        time.sleep(0.02)

def struck(manager):
    if pid := holder(manager.processes.values()):
        os.kill(pid, signal.SIGKILL)
    leave(manager)

if __name__ == "__main__":
    dask.config.set(scheduler="processes")
    print(sorted(schedule.run(abs, [-1, -2, 3])), flush=True)
    leave = process._ExecutorManagerThread.join_executor_internals
    process._ExecutorManagerThread.join_executor_internals = struck
"""


@pytest.mark.skipif(not Path("/proc/self/syscall").exists(), reason="needs Linux's /proc")
def test_a_worker_that_is_killed_at_the_very_end_is_waited_for_by_nobody(tmp_path):
    script = tmp_path / "leave.py"
    script.write_text(LEAVE)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 3]\n", "")
