"""Items on a cluster: all of them, a few at a time, whatever happens to workers."""

import logging
import operator
import os
import time
from functools import partial
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin

from thc_dask import dispatch
from thc_dask.errors import (
    AccessError,
    DataError,
    FailureError,
    MissingError,
    ReadError,
    WriteError,
)

HERE = {"dashboard_address": "127.0.0.1:0"}


@pytest.fixture(scope="module")
def fragile():
    """Two workers of one thread; an item is accused as soon as one of them ended with it."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, **HERE) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def threads():
    """A scheduler and a worker of two threads in this process."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **HERE) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_every_item_gives_its_result(cluster):
    triple = partial(operator.mul, 3)
    assert sorted(dispatch.run(cluster, triple, iter(range(500)))) == list(range(0, 1500, 3))
    assert list(dispatch.run(cluster, triple, [])) == []


@pytest.mark.parametrize("items_per_s", [0, 1000])
def test_items_are_taken_as_they_are_needed(threads, monkeypatch, items_per_s):
    monkeypatch.setattr(dispatch._Pace, "wanted", lambda _: dispatch.in_flight(2, items_per_s))
    taken = 0

    def items():
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    most = 0
    for done, _ in enumerate(dispatch.run(threads, abs, items())):
        most = max(most, taken - done)
    assert (done + 1, taken) == (1000, 1000)
    # What one message brings back is handed out before more is sent.
    assert most <= dispatch.in_flight(2, items_per_s) == (500 if items_per_s else 6)


class Queued(SchedulerPlugin):
    """Counts the tasks that the scheduler keeps until a worker has ended another."""

    name = "queued"
    n = 0

    def transition(self, key, start, finish, *args, **kwargs):
        self.n += finish == "queued"


@pytest.mark.parametrize("items_per_s", [0, 1000])
def test_items_that_are_short_do_not_wait_for_messages(threads, monkeypatch, items_per_s):
    monkeypatch.setattr(dispatch._Pace, "wanted", lambda _: dispatch.in_flight(2, items_per_s))
    queued = Queued()
    scheduler = threads.cluster.scheduler
    scheduler.add_plugin(queued)
    try:
        assert sorted(dispatch.run(threads, abs, range(300))) == list(range(300))
    finally:
        scheduler.remove_plugin("queued")
    # Items that take long go to whoever is free first.
    assert (queued.n == 0) == (items_per_s > 0)


class Made:
    """Says, wherever it was made, how often it has been asked."""

    def __init__(self):
        self.asked = 0

    def __getstate__(self):
        return {"asked": 0}

    def __call__(self, _):
        self.asked += 1
        return self.asked


def test_a_function_is_made_once_a_worker_and_anew_for_every_run(threads):
    for _ in range(2):
        assert max(dispatch.run(threads, Made(), range(20))) >= 10


def slow_or_bad(folder, item):
    """Item 0 works until after item 1 has failed; item 1 fails while it does."""
    folder = Path(folder)
    if item == 0:
        (folder / "began").touch()
        wait_for(folder / "failing")
        time.sleep(0.3)
        (folder / "ended").touch()
    elif item == 1:
        wait_for(folder / "began")
        (folder / "failing").touch()
        raise ReadError("cannot read it: gone")
    else:
        (folder / f"late-{item}").touch()


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def test_what_runs_has_ended_when_an_error_arrives(cluster, tmp_path):
    with pytest.raises(ReadError, match=r"^cannot read it: gone$"):
        list(dispatch.run(cluster, partial(slow_or_bad, str(tmp_path)), range(100)))
    assert (tmp_path / "ended").exists()
    before = sorted(tmp_path.iterdir())
    assert list(dispatch.run(cluster, abs, range(10)))
    assert sorted(tmp_path.iterdir()) == before


def first_slow(folder, item):
    folder = Path(folder)
    if item == 0:
        return
    if item == 1:
        (folder / "began").touch()
        wait_for(folder / "closing")
        time.sleep(0.3)
        (folder / "ended").touch()


def test_who_leaves_early_waits_for_what_runs(cluster, tmp_path):
    run = dispatch.run(cluster, partial(first_slow, str(tmp_path)), range(100))
    next(run)
    wait_for(tmp_path / "began")
    (tmp_path / "closing").touch()
    run.close()
    assert (tmp_path / "ended").exists()


def ends_once(folder, item):
    """End the worker the first time that item 2 is tried."""
    tried = Path(folder) / "tried"
    if item == 2 and not tried.exists():
        tried.touch()
        os._exit(9)
    return item


def test_items_survive_their_workers(fragile, tmp_path):
    """Item 2 and what waited beside it are blamed at once, and alone none of them does it again."""
    found = dispatch.run(fragile, partial(ends_once, str(tmp_path)), range(12))
    assert sorted(found) == list(range(12))


def ends(item):
    if item == 7:
        os._exit(9)
    return item


def test_an_item_that_ends_its_worker_is_named(fragile):
    """Whatever else waited there: it is found out, and the others give their results first."""
    found = []
    run = dispatch.run(fragile, ends, range(10), what="shard {}".format, memory_bytes=3 * 2**30)
    with pytest.raises(FailureError) as raised:
        found.extend(run)
    assert str(raised.value).startswith(
        "shard 7: a worker ended while working on nothing else (it was planned to hold 3.00 GiB), "
        "the last at tcp://127.0.0.1:"
    )
    assert "which might hold " in str(raised.value)
    assert 7 not in found
    assert set(range(6)) <= set(found)
    assert sorted(dispatch.run(fragile, abs, range(5))) == list(range(5))  # they are there again


@pytest.mark.parametrize("kind", [ReadError, WriteError, MissingError, AccessError, DataError])
def test_errors_keep_their_kind(threads, cluster, kind):
    for client in (threads, cluster):
        with pytest.raises(kind, match=r"^a\.tif: gone$") as raised:
            list(dispatch.run(client, partial(fails, kind), range(3)))
        assert raised.value.n_tries == 4


def fails(kind, _):
    error = kind("a.tif: gone")
    error.n_tries = 4
    raise error from OSError(5, "Input/output error")


def hungry(item):
    if item == 3:
        raise MemoryError
    return item


def test_an_item_without_memory_is_named(threads):
    with pytest.raises(FailureError) as raised:
        list(dispatch.run(threads, hungry, range(6), what="shard {}".format, memory_bytes=2**20))
    assert str(raised.value) == (
        "shard 3: a worker had no memory left for it (it was planned to hold 1.00 MiB); give "
        "workers more of it or fewer threads"
    )


def test_no_worker_is_waited_for_and_said(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "LOOK_S", 0.02)
    monkeypatch.setattr(dispatch, "PATIENCE_S", 0.05)
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, processes=False, **HERE) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):

        class Bring(logging.Handler):
            def emit(self, record):
                if "no worker has been there" in record.getMessage():
                    cluster.scale(1)

        logging.getLogger("thc_dask").addHandler(handler := Bring())
        try:
            assert sorted(dispatch.run(client, abs, range(-3, 0))) == [1, 2, 3]
        finally:
            logging.getLogger("thc_dask").removeHandler(handler)
    assert "waiting for one" in caplog.text


def test_a_scheduler_that_is_lost_is_one_error():
    client = Client(processes=False, n_workers=1, **HERE, set_as_default=False)
    run = dispatch.run(client, abs, range(100))
    next(run)
    client.close()
    client.cluster.close()
    with pytest.raises(FailureError, match=r"the scheduler at .* was lost.*then run it again"):
        list(run)
