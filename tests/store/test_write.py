import errno
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import new_store, read_files
from tests.strategies import Watched, source, volumes
from thc_dask.convert import write_store
from thc_dask.errors import DataError
from thc_dask.grid import Extent
from thc_dask.labels import write_labels
from thc_dask.schemes import Label, Scheme
from thc_dask.store.column import Column, Spare

SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a")))


class Recording(MemoryFileSystem):
    """The objects of ``memory://``, and in which order they were written."""

    protocol = "recording"
    written: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("recording://", "memory://", 1))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.written.append(path.partition(".ome.zarr/")[2])
        return super().pipe_file(path, value, mode, **kwargs)


fsspec.register_implementation("recording", Recording, clobber=True)


def writes_of(write):
    """Return the keys that a function writes to a store, in order."""
    url = new_store().replace("memory", "recording")
    write(url)
    keys = list(Recording.written)
    Recording.written.clear()
    return keys


@pytest.mark.filterwarnings("ignore:memory")  # whoever gives a byte is told so
@settings(max_examples=25)
@given(volumes(), st.integers(1, 50_000))
def test_each_voxel_is_read_once_and_each_shard_written_once(volume, memory_bytes):
    watched = Watched(volume.source, spacing_um=volume.spacing_um)
    written = writes_of(
        lambda url: write_store(watched, url, **volume.options, memory_bytes=memory_bytes)
    )
    n = np.zeros(volume.array.shape, int)
    for box in watched.boxes:
        n[box.slices] += 1
    assert (n == 1).all()
    twice = {key for key, times in Counter(written).items() if times > 1}
    assert not twice
    # Shards, then their metadata, and the root when all is there.
    assert written[-1] == "zarr.json"
    last_shard = max((i for i, key in enumerate(written) if "image/c/" in key), default=0)
    first_node = min(i for i, key in enumerate(written) if key.endswith("/zarr.json"))
    assert last_shard < first_node


@pytest.mark.parametrize("memory_bytes", [1, 2**30])
def test_only_what_is_near_known_labels_is_read_and_written(memory_bytes):
    image = np.random.default_rng(0).integers(0, 256, (64, 16, 64), np.uint8)
    options = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 4}
    watched = Watched(source(np.full(image.shape, 3, np.uint8)))
    known = Extent((20, 0, 40), (24, 4, 44))

    def write(url):
        write_store(source(image), url, **options)
        Recording.written.clear()
        write_labels(watched, url, "roi", SCHEME, extents=[known], memory_bytes=memory_bytes)

    shards = [key for key in writes_of(write) if "roi/c/" in key]
    assert shards == [
        "labels/roi/1/roi/c/1/0/2",  # the coarser one first: it is there if the finer one is
        "labels/roi/0/roi/c/1/0/2",
        "labels/roi/3/roi/c/0/0/0",
        "labels/roi/2/roi/c/0/0/0",
    ]
    assert all(known.contains(box) for box in watched.boxes)


@pytest.mark.filterwarnings("ignore:memory")  # whoever gives a byte is told so
def test_a_source_is_read_in_its_own_units():
    """A plane that is decoded whole is asked for whole, if the memory allows."""
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 50), np.uint8)
    watched = Watched(source(image).chunk({"z": 1, "y": 40, "x": 50}))
    write_store(watched, new_store(), chunk=(8, 8, 8), shard=(16, 16, 16))
    assert {box.shape[1:] for box in watched.boxes} == {(40, 50)}
    strips = Watched(source(image).chunk({"z": 1, "y": 40, "x": 50}))
    write_store(strips, new_store(), chunk=(8, 8, 8), shard=(16, 16, 16), memory_bytes=1)
    assert {box.shape[1:] for box in strips.boxes} == {(16, 16), (8, 16), (16, 2), (8, 2)}


@pytest.mark.parametrize("where", [(0, 0, 0), (9, 30, 20), (39, 39, 39)])
def test_no_half_shard_is_left_when_a_source_breaks(tmp_path, where):
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 40), np.uint8)
    options = {"chunk": (8, 8, 8), "shard": (16, 16, 16), "levels": 3, "spacing": "1um"}
    write_store(source(image), tmp_path / "whole.ome.zarr", **options)
    whole = read_files(tmp_path / "whole.ome.zarr")
    with pytest.raises(DataError):
        write_store(Watched(source(image), where), tmp_path / "v.ome.zarr", **options)
    left = read_files(tmp_path / "v.ome.zarr")
    shards = {key: data for key, data in left.items() if "/c/" in key}
    assert shards.items() <= whole.items()
    assert {key for key in left if not key.startswith("thc/")} == set(shards)


def test_no_column_is_taken_apart_while_it_is_committed(tmp_path, monkeypatch):
    """Also where whoever had it committed fails at once, with the next column."""
    begun, waited_for, running, taken_apart = (threading.Event() for _ in range(4))
    commit, finish, abort = Column.commit, Column.finish, Column.abort

    def slow_commit(self, read=None, counted=None):
        begun.set()
        running.set()
        waited_for.wait(10)  # whoever takes columns apart waits for this one first
        running.clear()
        return commit(self, read, counted)

    def failing_finish(self):
        if begun.is_set() or self.place[2]:
            begun.wait(10)
            raise OSError(errno.EBADMSG, "this column fails")
        finish(self)

    def seen_abort(self):
        if running.is_set():
            taken_apart.set()
        abort(self)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, *args, **options):
            if running.is_set() and any(t.name.startswith("thc-commit") for t in self._threads):
                waited_for.set()
            super().shutdown(*args, **options)

    monkeypatch.setattr(Column, "commit", slow_commit)
    monkeypatch.setattr(Column, "finish", failing_finish)
    monkeypatch.setattr(Column, "abort", seen_abort)
    monkeypatch.setattr("thc_dask.store.write.ThreadPoolExecutor", Pool)
    monkeypatch.setattr("thc_dask.store.write.UNITS_PER_THREAD", 1)
    monkeypatch.setattr("thc_dask.schedule.n_threads", lambda: 1)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 64), np.uint8)
    with pytest.raises(OSError, match="this column fails"):
        write_store(source(image), tmp_path / "v", chunk=(8, 8, 8), shard=(16, 16, 16), levels=2)
    assert begun.is_set()
    assert not taken_apart.is_set()


def test_closed_shards_that_wait_for_the_disk_hold_no_memory(tmp_path, monkeypatch):
    lock, closed, held, all_closed = threading.Lock(), [], [], threading.Event()
    commit, finish = Column.commit, Column.finish

    def late_commit(self, read=None, counted=None):
        assert all_closed.wait(60)
        return commit(self, read, counted)

    def seen_finish(self):
        finish(self)
        with lock:
            closed.append(self)
        if len(closed) == 16:
            held.extend(column._coarse for column in closed)
            held.extend(w._sink._buffer for column in closed for w in column._writers if w)
            all_closed.set()

    monkeypatch.setattr(Column, "commit", late_commit)
    monkeypatch.setattr(Column, "finish", seen_finish)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 64), np.uint8)
    write_store(source(image), tmp_path / "v", chunk=(8, 8, 8), shard=(16, 16, 16), levels=2)
    assert len(held) == 16 * 3
    assert not any(held)


def test_a_folder_and_a_url_hold_the_same_bytes(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 17), np.uint16)
    folder, url = tmp_path / "v.ome.zarr", new_store()
    for store in (folder, url):
        write_store(source(image), store, chunk=(8, 8, 8), shard=(16, 16, 16), levels=4)
        write_labels(source(image % 2 * 3), store, "roi", SCHEME, planes=[4, 9])
        write_labels(source(image % 2 * 3), store, into="roi", planes=[5])
    on_disk = read_files(folder)
    assert on_disk.pop("thc/lock") == b""
    assert on_disk == read_files(url)


def test_memory_of_columns_is_used_again():
    """Also by columns of other sizes, at the far faces; no more pieces than columns are open."""
    spare, dtype = Spare(), np.dtype(np.uint8)
    large, small = spare.take((8, 8, 8), dtype), spare.take((2, 2, 2), dtype)
    large[...], small[...] = 1, 2
    spare.give([large, small])
    edge = spare.take((5, 8, 7), dtype)
    assert edge.shape == (5, 8, 7)
    assert np.shares_memory(edge, large)
    assert np.shares_memory(spare.take((1, 1, 3), dtype), small)
    other = spare.take((1, 1, 3), dtype)
    assert not np.shares_memory(other, edge)
    spare.give([edge])
    assert np.shares_memory(spare.take((8, 8, 8), dtype), large)
