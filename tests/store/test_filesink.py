"""A file appears whole, whatever its size and wherever it lies."""

import errno
import fcntl
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from thc_dask.errors import WriteError
from thc_dask.store import filesink
from thc_dask.store.filesink import BLOCK_BYTES, BUFFER_BYTES, FileSink, most_open, write_file

SIZES = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, BUFFER_BYTES - 1, BUFFER_BYTES,
         BUFFER_BYTES + 1, 2 * BUFFER_BYTES, 5 * BUFFER_BYTES + 12345]  # fmt: skip


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n, np.uint8).tobytes()


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    """A folder of a file system that writes directly, and of one that may not."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no file system in memory")
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("pauses", [True, False])
def test_every_size_arrives(folder, monkeypatch, n, direct, pauses):
    if not direct:
        monkeypatch.setattr(filesink, "DIRECT", 0)
    data = noise(n)
    sink = FileSink(folder / "a")
    cuts = [0, *sorted(np.random.default_rng(n).integers(0, n + 1, 9).tolist()), n]
    parts = [memoryview(data)[a:b] for a, b in pairwise(cuts)]
    sink.append(parts[:5])
    for part in parts[5:]:
        if pauses:
            sink.pause()
            assert sink._buffer is None
        sink.append([part])
    assert not (folder / "a").exists()
    sink.close()
    sink.commit()
    assert (folder / "a").read_bytes() == data
    assert os.listdir(folder) == ["a"]


def test_a_file_system_that_refuses_direct_writes_late_gets_others(tmp_path, monkeypatch):
    refused = []

    def pwrite(fd, data, offset, write=os.pwrite):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & filesink.DIRECT:
            refused.append(offset)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(fd, data, offset)

    monkeypatch.setattr(filesink.os, "pwrite", pwrite)
    data = noise(3 * BUFFER_BYTES + 5)
    sink = FileSink(tmp_path / "a")
    sink.append([data])
    sink.commit()
    assert refused or not filesink.DIRECT
    assert (tmp_path / "a").read_bytes() == data


def test_many_files_at_once_do_not_mix(tmp_path):
    def write(i):
        data = noise(BUFFER_BYTES // 2 * (i % 5) + i, i)
        sink = FileSink(tmp_path / "sub" / str(i))
        for a in range(0, len(data), 70_001):
            sink.append([data[a : a + 70_001]])
        sink.commit()
        return (tmp_path / "sub" / str(i)).read_bytes() == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write, range(40)))


def test_what_is_given_up_leaves_nothing(tmp_path):
    sink = FileSink(tmp_path / "a")
    sink.append([noise(3 * BUFFER_BYTES + 1)])
    sink.abort()
    sink.abort()
    with pytest.raises(WriteError, match=r"cannot write .*/a: it was given up"):
        sink.commit()
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_is_told_and_leaves_the_name_alone(tmp_path):
    write_file(tmp_path / "a", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink = FileSink(tmp_path / "a")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BUFFER_BYTES, limits[1]))
        parts = [noise(BUFFER_BYTES)] * 40
        with pytest.raises(WriteError, match=r"cannot write .*/a: File too large"):
            sink.append(parts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        sink.abort()
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


def test_how_many_files_may_be_open():
    assert 1 < most_open() <= 2**20
