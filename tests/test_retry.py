"""What fails for a moment is tried again, whoever does it; what stays wrong is named."""

import errno
import logging
import os
import random
import threading

import numpy as np
import pytest
import tifffile

from tests.assertions import read_files
from thc_dask import cli, verify
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import DataError, FailureError, ReadError, WriteError
from thc_dask.labels import write_labels
from thc_dask.retry import Attempts, Fault, Patience, StoppedError, passing, persist
from thc_dask.store.location import locate

SIZES = {"spacing": "1um", "levels": 3, "chunk": (16, 16, 16), "shard": (32, 32, 32)}
CALLS = ("open", "pread", "preadv", "pwrite", "fsync", "replace", "stat", "scandir")


class Flaky:
    """The system's calls, of which some fail, seeded; ``log`` has those that did."""

    def __init__(self, monkeypatch, share, code=errno.EIO, calls=CALLS, only=""):
        self.failed, self._lock = [], threading.Lock()
        self._rng, self._share, self._code, self._only = random.Random(5), share, code, only
        for name in calls:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, call):
        def flaky(*args, **kwargs):
            about = args[0] if args else ""
            if isinstance(about, int):
                about = os.readlink(f"/proc/self/fd/{about}")
            with self._lock:
                fails = str(about).startswith(self._only) and self._rng.random() < self._share
                if fails:
                    self.failed.append((name, str(about)))
            if fails:
                raise OSError(self._code, os.strerror(self._code), str(about))
            return call(*args, **kwargs)

        return flaky


@pytest.fixture
def pauses(monkeypatch):
    """Nobody waits; what would have been waited for is kept."""
    found = []
    quick = Patience(n_tries=8, pause=lambda stop, seconds: found.append(seconds))
    for name in ("thc_dask.retry.FILES", "thc_dask.store.write.FILES"):
        monkeypatch.setattr(name, quick)
    return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    voxels = np.random.default_rng(1).integers(0, 256, (70, 48, 80), np.uint8)
    for z, plane in enumerate(voxels):
        compression = "zlib" if z % 2 else None
        tifffile.imwrite(folder / f"s_{z:03}.tif", plane, compression=compression)
    return folder


def make(stack, store):
    write_store(stack, store, **SIZES)
    write_labels("phantom:70,48,80?channel=roi", store, "roi", "prasad2020-roi", planes=[3, 40])
    write_counts(store, "roi")
    return store


def test_every_call_of_the_system_may_fail_now_and_then(
    stack, tmp_path, monkeypatch, pauses, caplog
):
    calm = read_files(make(stack, tmp_path / "calm"))
    with monkeypatch.context() as within:
        flaky = Flaky(within, share=0.05)
        make(stack, tmp_path / "store")
        assert verify(tmp_path / "store")["problems"] == []
    assert {name for name, _ in flaky.failed} == set(CALLS)
    assert len(flaky.failed) > 50
    assert pauses
    assert read_files(tmp_path / "store") == calm
    assert {r.levelno for r in caplog.records} == {logging.WARNING}
    assert all("Input/output error" in r.getMessage() for r in caplog.records)


def test_what_may_not_have_reached_the_disk_is_written_anew(stack, tmp_path, monkeypatch, pauses):
    """After a failed fsync the next one may well succeed, and the data are lost all the same."""
    written = []

    def counted(source, target, replace=os.replace):
        written.append(str(target))
        replace(source, target)

    write_store(stack, tmp_path / "calm", **SIZES)
    monkeypatch.setattr(os, "replace", counted)
    shards = f"{tmp_path}/store/0/image/c"
    flaky = Flaky(monkeypatch, share=0.2, calls=["fsync"], only=shards)
    write_store(stack, tmp_path / "store", **SIZES)
    assert flaky.failed
    first = flaky.failed[0][1].removesuffix(".partial").rsplit(".", 1)[0]
    assert first in written  # under another name than the one whose fsync failed
    assert read_files(tmp_path / "store") == read_files(tmp_path / "calm")


def test_a_slice_that_stays_out_of_reach_is_named(stack, tmp_path, monkeypatch, pauses):
    slow = str(stack / "s_037.tif")
    with monkeypatch.context() as within:
        Flaky(within, share=1.0, calls=["pread", "preadv"], only=slow)
        with pytest.raises(
            DataError,
            match=rf"^slices: plane 37: cannot read {slow}: Input/output .*\(tried 8 times",
        ):
            write_store(stack, tmp_path / "v", **SIZES)
    assert len(pauses) == 7  # not 8 times 8: whoever is above does not try again
    write_store(stack, tmp_path / "v", resume=True, **SIZES)
    assert verify(tmp_path / "v")["whole"]


@pytest.mark.parametrize(
    ("code", "n_pauses", "what"),
    [
        (errno.EIO, 7, r"^cannot write \S+/0/image/c/\S+: Input/output error \(tried 8 times\) \("),
        (errno.ENOSPC, 0, r"^cannot write \S+/0/image/c/\S+: the disk is full; free space"),
        (errno.EROFS, 0, "the file system is read-only"),
    ],
)
def test_only_what_may_pass_is_written_again(
    stack, tmp_path, monkeypatch, pauses, code, n_pauses, what
):
    with monkeypatch.context() as within:
        Flaky(within, share=1.0, code=code, calls=["pwrite"], only=f"{tmp_path}/v/0/image")
        with pytest.raises(WriteError, match=what):
            write_store(stack, tmp_path / "v", **SIZES)
    assert len(pauses) == n_pauses
    write_store(stack, tmp_path / "v", resume=True, **SIZES)
    assert verify(tmp_path / "v")["whole"]


def test_a_store_that_cannot_be_read_is_named(tmp_path, monkeypatch, pauses):
    location = locate(tmp_path / "v")
    location.put("a/b", b"data")
    with monkeypatch.context() as within:
        Flaky(within, share=1.0, code=errno.ESTALE, only=str(tmp_path))
        for look in (location.size, location.keys, location.opened):
            with pytest.raises(ReadError, match=rf"cannot read {tmp_path}/v/a.*: Stale.*8 times"):
                look("a/b" if look != location.keys else "a")
    with monkeypatch.context() as within:
        Flaky(within, share=1.0, code=errno.EACCES, only=str(tmp_path))
        with pytest.raises(ReadError, match=rf"cannot read {tmp_path}/v/a: Permission denied"):
            location.keys("a")  # os.walk would say that there is nothing
    assert len(pauses) == 21


def test_an_open_file_that_went_stale_is_opened_anew(tmp_path, monkeypatch, pauses):
    location = locate(tmp_path)
    location.put("a", b"0123456789")
    opened = location.opened("a")
    before = opened._fd
    real = os.pread
    stale = (os.fstat(before).st_dev, os.fstat(before).st_ino)
    os.replace(tmp_path / "a", tmp_path / "b")  # on a server the old one would be no more
    location.put("a", b"0123456789")

    def pread(fd, n, start):
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(fd, n, start)

    monkeypatch.setattr(os, "pread", pread)
    assert opened.read(2, 3) == b"234"
    assert len(pauses) == 1
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened._fd)


def test_a_command_warns_in_lines(stack, tmp_path, monkeypatch, pauses, capsys):
    store = tmp_path / "v"
    write_store(stack, store, **SIZES)
    with monkeypatch.context() as within:
        flaky = Flaky(within, share=0.2, calls=["pread"], only=str(store))
        assert cli.run(["verify", str(store)]) == 0
    lines = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert len(lines) == len(flaky.failed) > 0
    assert all(x.startswith(f"thc verify: warning: cannot read {store}/") for x in lines)
    assert not logging.getLogger("thc_dask").handlers


def failing(*errors):
    """Return what raises each error in turn, then returns the number of calls."""
    left = list(errors)

    def action():
        if left:
            raise left.pop(0)
        return len(errors) + 1

    return action


def test_pauses_grow_and_differ():
    waited = []
    patience = Patience(n_tries=7, first_s=1, longest_s=4, pause=lambda _, s: waited.append(s))
    assert persist(failing(*[TimeoutError()] * 6), "x", patience) == 7
    assert all(n / 2 <= w <= n for w, n in zip(waited, (1, 2, 4, 4, 4, 4), strict=True))
    assert len(set(waited)) == 6


def test_the_last_error_says_how_often_and_is_not_tried_again():
    patience = Patience(n_tries=3, pause=lambda *_: None)
    with pytest.raises(ReadError, match=r"^cannot read x: \w+ \(tried 3 times\); see") as found:
        persist(failing(*[ConnectionError()] * 3), "x", patience)
    assert passing(found.value) is None
    again = failing(found.value)
    with pytest.raises(ReadError):
        persist(again, "y", patience)
    with pytest.raises(ReadError, match=r"wait \d+ s more is too long \(tried once\)"):
        persist(
            failing(TimeoutError("late")), "x", Patience(first_s=100, longest_s=100, deadline_s=20)
        )


def test_who_is_asked_for_nothing_more_stops_waiting():
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError, match="another request failed"):
        persist(failing(TimeoutError()), "x", Patience(first_s=100, longest_s=100), stop=stop)


def test_success_gives_all_tries_back():
    attempts = Attempts("x", Patience(n_tries=2, pause=lambda *_: None))
    for _ in range(5):
        attempts.failed(TimeoutError())
        attempts.succeeded()
    attempts.failed(TimeoutError())
    with pytest.raises(FailureError, match="2 times"):
        attempts.failed(TimeoutError())


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), True),
        (ConnectionResetError(), True),
        (OSError("Can't read data (file read failed: errno = 5, error message = 'x')"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("5"), False),
        (DataError("damaged"), False),
    ],
)
def test_what_may_pass(error, may_pass):
    assert (passing(error) is not None) == may_pass
    around = DataError("cannot read a.tif")
    around.__cause__ = error
    assert passing(around) == (Fault("cannot read a.tif") if may_pass else None)
