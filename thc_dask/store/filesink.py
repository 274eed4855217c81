"""A file that appears whole: written under another name past the page cache, then renamed.

Voxels go to the disk once and are not soon read again. To copy them into the page cache costs
as much as to compress them, and drives out what others read; direct writes cost nothing.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from thc_dask.errors import writing

Buffer = bytes | bytearray | memoryview

PARTIAL = ".partial"  # ends the name of a file that is not whole yet
BUFFER_BYTES = 2**20  # a disk reaches its rate with writes of this size
BLOCK_BYTES = 4096  # direct writes begin and end at multiples of this
IN_FLIGHT = 8  # buffers that may wait for the disk
DIRECT = getattr(os, "O_DIRECT", 0)  # 0 where the system has no such thing
KEPT = 32  # buffers that stay for the next file


class _Buffers:
    """Aligned memory that is used again: fresh memory is slow."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._in_flight = threading.BoundedSemaphore(IN_FLIGHT)

    def take(self) -> mmap.mmap:
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, BUFFER_BYTES)

    def give(self, buffer: mmap.mmap) -> None:
        if len(self._free) < KEPT:
            self._free.append(buffer)

    def write(
        self, opened: Callable[[], int], buffer: mmap.mmap, n: int, offset: int
    ) -> Future[None]:
        """Write ``n`` bytes in a thread of its own, and keep the buffer for the next."""
        self._in_flight.acquire()  # a slow disk holds up whoever fills buffers

        def work() -> None:
            try:
                _pwrite(opened(), memoryview(buffer)[:n], offset)
            finally:
                self.give(buffer)
                self._in_flight.release()

        try:
            return _threads().submit(work)
        except BaseException:
            self._in_flight.release()
            raise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="thc-disk")


_buffers = _Buffers()


def _pwrite(fd: int, data: memoryview, offset: int) -> None:
    while data:
        try:
            n = os.pwrite(fd, data, offset)
        except OSError as error:
            # Some file systems take a file for direct writing and then refuse to write so.
            if error.errno != errno.EINVAL or not _no_longer_direct(fd):
                raise
            continue
        data, offset = data[n:], offset + n


def _no_longer_direct(fd: int) -> bool:
    """Let a file be written through the page cache; False if it was already."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not flags & DIRECT:
        return False
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~DIRECT)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it."""
    folder.mkdir(parents=True, exist_ok=True)


def write_file(
    path: str | os.PathLike[str], data: Buffer, durable: bool = True,
    make: Callable[[Path], None] = make_folder,
) -> None:  # fmt: skip
    """Write a small file, whole or not at all.

    ``durable`` waits until a power cut cannot lose it; ``make`` makes its folder if needed.

    Raises
    ------
    WriteError
        It cannot be written; what was there before still is.
    """
    partial = _beside(Path(path))
    with writing(path):
        try:
            fd = _create(partial, make)
            try:
                _pwrite(fd, memoryview(data).cast("B"), 0)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def _create(path: Path, make: Callable[[Path], None], direct: bool = False) -> int:
    """Return a new file opened for writing; ``make`` makes its folder if needed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (DIRECT if direct else 0)
    try:
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            make(path.parent)
            return os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL or not direct:
            raise
        path.unlink(missing_ok=True)  # some systems make the file before they refuse the flag
        return _create(path, make)


def most_open() -> int:
    """Return how many files may be open for writing at a time; half of them are left to others."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft // 2


class FileSink:
    """A large file that comes in parts."""

    def __init__(self, path: Path, make: Callable[[Path], None] = make_folder) -> None:
        self._path, self._make = path, make
        self._partial = _beside(path)
        self._fd = -1
        self._opening = threading.Lock()
        self._buffer: mmap.mmap | None = None
        self._filled = 0  # bytes of the buffer
        self._rest = b""  # of a block that is not whole, while there is no buffer
        self._size = 0  # bytes handed to the disk
        self._pending: list[Future[None]] = []
        self._given_up = False

    def _opened(self) -> int:
        """Return the file, made by who first writes to it: that takes a while."""
        with self._opening:
            if self._given_up:  # a new file would be hollow
                raise OSError(errno.ECANCELED, "it was given up", str(self._path))
            if self._fd < 0:
                self._fd = _create(self._partial, self._make, direct=True)
            return self._fd

    def append(self, parts: Sequence[Buffer]) -> None:
        """Add bytes at the end."""
        for part in parts:
            data = np.frombuffer(part, np.uint8)
            while len(data):
                buffer = self._begun()
                n = min(len(data), BUFFER_BYTES - self._filled)
                # numpy copies while other threads run; a slice of an mmap would stop them
                np.frombuffer(buffer, np.uint8)[self._filled : self._filled + n] = data[:n]
                self._filled += n
                data = data[n:]
                if self._filled == BUFFER_BYTES:
                    self.pause()

    def room(self, least: int) -> memoryview | None:
        """Return memory behind what was added, of ``least`` bytes or more; None if that is much.

        What is written there counts once ``added`` says so.
        """
        if least > BUFFER_BYTES - BLOCK_BYTES:
            return None
        if BUFFER_BYTES - self._filled < least:
            self.pause()
        return memoryview(self._begun())[self._filled :]

    def added(self, n: int) -> None:
        """Say that ``n`` bytes of ``room`` have been filled."""
        self._filled += n

    def pause(self) -> None:
        """Hand whole blocks to the disk, and the buffer to others, until more is added."""
        if self._buffer is None:
            return
        whole = self._filled // BLOCK_BYTES * BLOCK_BYTES
        self._rest = self._buffer[whole : self._filled]
        if whole:
            self._write(whole, whole)
        else:
            _buffers.give(self._buffer)
            self._buffer, self._filled = None, 0

    def close(self) -> None:
        """Hand what is left to the disk; nothing can be added after that."""
        self.pause()
        if self._rest:
            buffer, n = self._begun(), self._filled
            padded = -(-n // BLOCK_BYTES) * BLOCK_BYTES  # commit cuts it off
            buffer[n:padded] = bytes(padded - n)
            self._write(padded, n)

    def commit(self) -> None:
        """Make the file appear, whole; a power cut cannot lose it."""
        self.close()
        with writing(str(self._path)):
            for future in self._pending:
                future.result()
            self._pending = []
            fd = self._opened()
            if self._size % BLOCK_BYTES:
                os.ftruncate(fd, self._size)
            os.fsync(fd)
            os.close(fd)
            self._fd = -1
            os.replace(self._partial, self._path)

    def _begun(self) -> mmap.mmap:
        """Return the buffer, begun with what was left of the one before."""
        if self._buffer is None:
            self._buffer, self._filled = _buffers.take(), len(self._rest)
            self._buffer[: self._filled] = self._rest
            self._rest = b""
        return self._buffer

    def _write(self, padded: int, n: int) -> None:
        """Give the buffer to the disk, ``n`` bytes of it data; earlier errors are raised here."""
        while self._pending and self._pending[0].done():
            with writing(str(self._path)):
                self._pending.pop(0).result()
        assert self._buffer is not None
        self._pending.append(_buffers.write(self._opened, self._buffer, padded, self._size))
        self._buffer, self._filled, self._size = None, 0, self._size + n

    def abort(self) -> None:
        """Leave nothing behind."""
        self._given_up = True
        for future in self._pending:
            with suppress(OSError):
                future.result()
        self._pending, self._rest = [], b""
        if self._buffer is not None:
            _buffers.give(self._buffer)
            self._buffer = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)
