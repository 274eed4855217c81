"""Stores in object storage, on real servers: the same bytes as in a folder, whatever happens."""

import json
import logging
import subprocess
import sys
import time

import numpy as np
import pytest

import thc_dask as thc
from tests.assertions import read_files
from tests.fault_proxy import FAULTS, fault_proxy
from tests.object_storage import moto, point_at, seaweed
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import ExistsError, WriteError
from thc_dask.grid import parse_box
from thc_dask.labels import write_labels
from thc_dask.remote import Remote, client
from thc_dask.store import lease
from thc_dask.store.location import locate

SHAPE = "40,48,64"
SOURCE = f"phantom:{SHAPE}"
SIZES = {"chunk": (16, 16, 16), "shard": (32, 32, 32), "levels": 3}
URL = "s3://bucket/lab one/v.ome.zarr"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Return the URL of a server by its name; each is started when it is asked for first."""
    from contextlib import ExitStack

    started = {}
    with ExitStack() as stack:

        def url_of(name):
            if name not in started:
                make = {"moto": moto, "seaweed": lambda: seaweed(tmp_path_factory.mktemp("weed"))}
                started[name] = stack.enter_context(make[name]())
            return started[name]

        yield url_of


def empty(monkeypatch, url):
    """Leave nothing in the bucket of a server, which is the one that is talked to now."""
    point_at(monkeypatch, url)
    bucket = locate("s3://bucket")
    bucket.put("first", b"")  # there is a bucket after that
    bucket.delete("")


@pytest.fixture
def s3(servers, monkeypatch):
    """A server with an empty bucket, seen through a proxy that breaks nothing yet."""
    upstream = servers("seaweed")
    with fault_proxy(upstream) as proxy:
        empty(monkeypatch, upstream)
        point_at(monkeypatch, proxy.url)
        yield proxy


def make_all(store):
    """Do to a store all that a user does."""
    write_store(SOURCE, store, **SIZES)
    write_labels(f"{SOURCE}?channel=roi", store, "roi", "prasad2020-roi", planes=[3, 17])
    write_labels(f"{SOURCE}?channel=roi", store, into="roi", planes=[33])
    structures = {"name": "cells", "scheme": "prasad2020-microstructure"}
    write_labels(f"{SOURCE}?channel=microstructure", store, **structures)
    write_labels(f"{SOURCE}?channel=microstructure", store, **structures, overwrite=True)
    write_counts(store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same in a folder."""
    store = tmp_path_factory.mktemp("folder") / "v.ome.zarr"
    make_all(store)
    return store


def files_of(folder):
    found = read_files(folder)
    assert found.pop("thc/lock") == b""
    return found


@pytest.mark.parametrize("name", ["moto", "seaweed"])
def test_a_bucket_holds_what_a_folder_holds(name, servers, folder, monkeypatch, tmp_path):
    empty(monkeypatch, servers(name))
    make_all(URL)
    assert read_files(URL) == files_of(folder)
    for box in (None, parse_box("0:20,0:30,0:30")):
        found, expected = (thc.histogram(s, "roi", box).compute() for s in (URL, folder))
        assert found.equals(expected)
    volume, here = thc.open_volume(URL), thc.open_volume(folder)
    assert set(volume.groups) == set(here.groups)
    np.testing.assert_array_equal(volume["1/image"].values, here["1/image"].values)
    found = thc.verify(URL, spot_checks=0)
    assert (found["whole"], found["unknown"], found["left_over"]) == (True, [], [])
    if name == "moto":  # it is too slow for more
        return
    # What is there is a source too.
    again = tmp_path / "again.ome.zarr"
    write_store(f"{URL}/labels/roi", again, **SIZES)
    write_store(f"{folder}/labels/roi", tmp_path / "local.ome.zarr", **SIZES)
    shards = [
        {key: data for key, data in read_files(store).items() if "/c/" in key}
        for store in (again, tmp_path / "local.ome.zarr")
    ]
    assert shards[0] == shards[1] != {}


def test_a_report_is_made_from_a_bucket(s3, folder, tmp_path):
    target = locate(URL)
    for key, data in files_of(folder).items():
        target.put(key, data)
    pages = []
    for store in (URL, folder):
        page = tmp_path / "report.html"
        thc.report(store, page)
        pages.append(page.read_text())
    assert len(pages[0]) > 10_000
    assert URL in pages[0]


COMMANDS = {
    "convert": lambda: write_store(SOURCE, URL, **SIZES),
    "labels": lambda: write_labels(f"{SOURCE}?channel=roi", URL, "roi", "prasad2020-roi"),
    "count": lambda: write_counts(URL),
    "histogram": lambda: thc.histogram(URL, "roi").compute(),
    "histogram of a box": lambda: thc.histogram(URL, "roi", parse_box(":,0:30,0:30")).compute(),
    "verify": lambda: thc.verify(URL, spot_checks=0),
}
REQUESTS = {
    "convert": {"GET": 16, "LIST": 4, "POST": 3, "PUT": 56},
    "labels": {"GET": 16, "LIST": 3, "POST": 3, "PUT": 58},
    "count": {"GET": 26, "LIST": 2, "POST": 3, "PUT": 32},
    "histogram": {"GET": 8},
    "histogram of a box": {"GET": 12},
    "verify": {"GET": 158, "HEAD": 90, "LIST": 2},
}


def test_requests_by_verb(s3):
    """What each command asks of a server. A change here is a change of cost and of latency."""
    found = {}
    for name, command in COMMANDS.items():
        s3.forget()
        command()
        found[name] = s3.counts()
    assert found == REQUESTS


def test_nothing_is_listed_while_voxels_are_written_or_read(s3):
    """Listings are as many for 2 shards as for 40, and so is all but what a shard costs itself."""
    found = {}
    for shape in ("16,32,48", "32,48,64"):
        store = f"s3://bucket/{shape}.ome.zarr"
        s3.forget()
        write_store(f"phantom:{shape}", store, chunk=(16,) * 3, shard=(16,) * 3, levels=1)
        convert = s3.counts()
        write_labels(f"phantom:{shape}?channel=roi", store, "roi", "prasad2020-roi")
        s3.forget()
        write_counts(store)
        found[shape] = (convert["LIST"], s3.counts()["LIST"], convert["PUT"], convert["GET"])
    small, large = found.values()
    assert small[:2] == large[:2]
    n_shards = 2 * 3 * 4 - 2 * 3
    # A PUT for the shard, one for its receipt.
    assert large[2] - small[2] == 2 * n_shards
    assert large[3] - small[3] <= n_shards


def test_a_tenth_of_all_requests_breaks_and_nothing_is_lost(s3, folder, monkeypatch):
    monkeypatch.setattr(client, "TIMEOUTS", {"connect_timeout": "4s", "timeout": "4s"})
    client._connect.cache_clear()
    s3.faults = {"slow down": 0.035, "reset": 0.02, "lost answer": 0.02, "truncated": 0.02,
                 "timeout": 0.005}  # fmt: skip
    make_all(URL)
    found = thc.histogram(URL, "roi", parse_box("0:20,0:30,0:30")).compute()
    checked = thc.verify(URL)
    broken, n_requests = s3.broken, len(s3.requests)
    s3.faults = {}
    client._connect.cache_clear()
    assert set(broken) == set(FAULTS)
    assert broken.total() > 0.06 * n_requests
    assert read_files(URL) == files_of(folder)
    assert found.equals(thc.histogram(folder, "roi", parse_box("0:20,0:30,0:30")).compute())
    assert (checked["whole"], checked["unknown"], checked["left_over"]) == (True, [], [])


CONVERT = f"""
import sys
from thc_dask.convert import write_store
write_store({SOURCE!r}, sys.argv[1], chunk=(16,) * 3, shard=(32,) * 3, levels=3)
"""


@pytest.mark.parametrize("n_shards", [1, 5, 11])
def test_what_was_killed_is_resumed_to_the_same_bytes(s3, tmp_path, n_shards):
    whole = tmp_path / "v.ome.zarr"
    write_store(SOURCE, whole, **SIZES)
    process = subprocess.Popen([sys.executable, "-c", CONVERT, URL])
    deadline = time.monotonic() + 60
    while sum(m == "PUT" and "/image/c/" in p for m, p, _ in s3.requests) < n_shards:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.kill()
    process.wait()
    left = read_files(URL)
    assert "zarr.json" not in left
    receipts = [key for key in left if key.startswith("thc/receipts/image/")]
    s3.forget()
    write_store(SOURCE, URL, **SIZES, resume=True)  # the dead writer's lock keeps nobody waiting
    written = sum(m == "PUT" and "/image/c/" in p for m, p, _ in s3.requests)
    kept = [s for key in receipts for s in json.loads(left[key])["shards"] if s["n_bytes"]]
    n_all = sum("/image/c/" in f"/{key}" for key in read_files(whole))
    assert written <= n_all - len(kept)
    assert read_files(URL) == files_of(whole)


def test_what_is_damaged_is_found_and_mended(s3, folder):
    target = locate(URL)
    before = files_of(folder)
    for key, data in before.items():
        target.put(key, data)
    shards = sorted(key for key in before if "/c/" in key and "image" in key)
    target.put(shards[0], before[shards[0]][:-1])
    target.put(shards[-1], bytes([before[shards[-1]][0] ^ 1]) + before[shards[-1]][1:])
    target.remove("thc/receipts/labels/roi/roi.jsonl")
    found = thc.verify(URL)
    assert {p["key"] for p in found["problems"]} == {
        shards[0], shards[-1], "thc/receipts/labels/roi/roi.jsonl"
    }  # fmt: skip
    assert thc.verify(URL, repair=True)["whole"]
    assert read_files(URL) == before


def test_a_second_writer_is_refused_until_the_first_is_done(s3):
    write_store(SOURCE, URL, **SIZES)
    with locate(URL).lock():
        with pytest.raises(ExistsError, match=r"written by another process \(number \d+ on "):
            write_labels(f"{SOURCE}?channel=roi", URL, "roi", "prasad2020-roi")
        assert "thc/lock" in read_files(URL)
    write_labels(f"{SOURCE}?channel=roi", URL, "roi", "prasad2020-roi")
    assert "thc/lock" not in read_files(URL)


def elsewhere(url, beat):
    """Write the lock of a process of another machine."""
    writer = {"host": "node7", "pid": 1, "process": ["boot", "pid:[1]", 1, "9"], "beat": beat}
    locate(url).put("thc/lock", json.dumps(writer).encode())


def test_a_writer_elsewhere_is_waited_for_while_it_lives(s3, monkeypatch, caplog):
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "DEAD_S", 0.6)
    elsewhere(URL, 0)
    with locate(URL).lock():  # it gives no sign of life
        pass
    assert "waiting up to" in caplog.text
    elsewhere(URL, 0)
    s3.forget()
    seen = []

    def live(self, found, over=lease.Lease._is_over):
        # It gives a sign as soon as it is looked at.
        elsewhere(URL, len(seen) + 1)
        seen.append(found)
        return over(self, found)

    monkeypatch.setattr(lease.Lease, "_is_over", live)
    with pytest.raises(ExistsError, match="on node7"), locate(URL).lock():
        pass
    assert len(seen) == 1


def test_a_writer_that_was_overtaken_writes_no_more(s3, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    mine = locate(URL)
    with mine.lock():
        mine.put("a", b"1")
        elsewhere(URL, 0)
        deadline = time.monotonic() + 30
        while not mine._lease._lost:
            assert time.monotonic() < deadline
        for change in (lambda: mine.put("a", b"2"), lambda: mine.remove("a"),
                       lambda: mine.exchange("a", b"1", b"2")):  # fmt: skip
            with pytest.raises(WriteError, match="another has taken over"):
                change()
    assert mine.get("a") == b"1"
    assert b"node7" in mine.get("thc/lock")  # theirs is not given back


def test_a_change_between_the_look_and_the_write_is_noticed(s3):
    objects = Remote(URL)
    first = objects.exchange("zarr.json", None, b"one")
    assert objects.exchange("zarr.json", None, b"two") is None
    second = objects.exchange("zarr.json", first, b"two")
    assert second is not None
    assert objects.exchange("zarr.json", first, b"three") is None
    assert objects.get("zarr.json") == b"two"
    # The same again, as after an answer that was lost, is no other writer.
    assert objects.exchange("zarr.json", first, b"two") == second
    location = locate(URL)
    assert not location.exchange("zarr.json", b"one", b"three")
    assert location.exchange("zarr.json", b"two", b"three")


def test_two_writers_who_begin_at_once(s3, monkeypatch):
    """The other one comes after the first has looked, and before it claims the place."""
    from thc_dask.store import publish

    monkeypatch.setattr(lease.Lease, "take", lambda self: False)  # conditions alone must do
    look = publish.check_place

    def slow(location, overwrite):
        look(location, overwrite)
        monkeypatch.setattr(publish, "check_place", look)
        locate(URL).put("thc/plan.json", b"{}")

    monkeypatch.setattr(publish, "check_place", slow)
    monkeypatch.setattr(Remote, "get", lambda self, key: None)
    with pytest.raises(ExistsError, match="is being written by another process"):
        publish.begin(locate(URL), {"mine": 1}, overwrite=False)


@pytest.mark.parametrize("how", ["ignored", "unknown"])
def test_a_service_without_conditions_is_used_as_it_is(s3, servers, monkeypatch, caplog, how):
    if how == "ignored":
        # Conditions are signed: only a server that asks for no keys can be made deaf to them.
        empty(monkeypatch, servers("moto"))
        s3._upstream = ("127.0.0.1", int(servers("moto").rsplit(":", 1)[1]))
        point_at(monkeypatch, s3.url)
        s3.deaf = True
    else:
        monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    with caplog.at_level(logging.WARNING, "thc_dask"):
        write_store(SOURCE, URL, **SIZES)
    assert ("takes no notice of conditional writes" in caplog.text) == (how == "ignored")
    write_labels(f"{SOURCE}?channel=roi", URL, "roi", "prasad2020-roi")
    assert thc.verify(URL)["whole"]
    assert "thc/lock" not in read_files(URL)
