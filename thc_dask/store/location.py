"""Where a store is: a folder or a URL, behind the few operations the store needs.

Every object appears whole or not at all: written beside its name and renamed in a folder,
a single PUT on object storage.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from thc_dask.errors import (
    ExistsError,
    MissingError,
    ReadError,
    RequestError,
    WriteError,
    reading,
    writing,
)
from thc_dask.remote.address import is_remote
from thc_dask.retry import persist
from thc_dask.store.filesink import BLOCK_BYTES, Buffer, FileSink, write_file

Found = TypeVar("Found")

LOCK = "thc/lock"  # held by the process that writes


class Sink(Protocol):
    """An object being written; nobody sees it before ``commit``."""

    def append(self, parts: Sequence[Buffer]) -> None:
        """Add bytes at the end."""

    def room(self, least: int) -> memoryview | None:
        """Return memory for the next ``least`` bytes or more, None where there is none.

        What is written there counts once ``added`` says so.
        """

    def added(self, n: int) -> None:
        """Say that ``n`` bytes of ``room`` have been filled."""

    def pause(self) -> None:
        """Let go of memory as far as possible, until more is added."""

    def close(self) -> None:
        """Let go of memory as far as possible; nothing can be added after that."""

    def commit(self) -> None:
        """Make the object appear, whole."""

    def abort(self) -> None:
        """Leave nothing behind."""


class Opened(Protocol):
    """An object that is read piece by piece."""

    def read(self, start: int, n: int) -> bytes:
        """Return ``n`` bytes from ``start`` on, fewer where it ends."""

    def close(self) -> None:
        """Let go of it."""


class Location(Protocol):
    """Keys with bytes behind them; keys look like ``0/image/c/0/0/0``."""

    url: str

    def for_zarr(self) -> Any:
        """Return what zarr and xarray open to read it."""

    def get(self, key: str) -> bytes | None:
        """Return all bytes of an object, None where there is none."""

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        """Return ``n`` bytes from ``start`` on (from the end if negative), None where absent."""

    @property
    def far(self) -> bool:
        """Whether each piece that is read costs a request: what is needed is asked for at once."""

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """Return several (start, n) of an object at once, None where there is none."""

    def opened(self, key: str) -> Opened | None:
        """Return an object for reading many pieces of it, None where there is none."""

    def size(self, key: str) -> int | None:
        """Return the bytes of an object, None where there is none."""

    @property
    def alone(self) -> bool:
        """Whether who holds the lock is the only one to write."""

    def check_writable(self) -> None:
        """Raise RequestError where nothing can ever be written."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other writers out; ExistsError where one is at work."""

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        """Write an object, whole; ``durable`` waits until a power cut cannot lose it."""

    def exchange(self, key: str, before: bytes | None, data: bytes) -> bool:
        """Write an object if it still is ``before`` (None: if there is none); say whether it was.

        Where the service knows conditional writes, nobody can come in between.
        """

    def sink(self, key: str) -> Sink:
        """Begin an object that comes in parts."""

    def sink_bytes(self, n_bytes: int) -> int:
        """Return what a sink holds in memory of an object of ``n_bytes``, while it is paused."""

    def remove(self, key: str) -> None:
        """Remove one object, if it is there."""

    def delete(self, prefix: str) -> None:
        """Remove the object of that key, or all below it."""

    def move(self, key: str, to: str) -> None:
        """Give an object another key, in place of what has that key."""

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below ``prefix``, sorted."""


def locate(store: str | os.PathLike[str]) -> Location:
    """Return the location of a path, of object storage, or of any other URL that fsspec knows.

    >>> locate("volume.ome.zarr").url
    'volume.ome.zarr'
    """
    text = os.fspath(store)
    if not text:
        raise RequestError("store: give a path or a URL, not an empty name")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if is_remote(text):
        from thc_dask.store.objects import Objects

        return Objects(text.rstrip("/"))
    if "://" in text:
        from thc_dask.store.foreign import Foreign

        return Foreign(text.rstrip("/"))
    return Folder(text.rstrip("/") or "/")


class Ranges:
    """An object of which every piece is asked for by itself."""

    def __init__(self, location: Location, key: str) -> None:
        self._location, self._key = location, key

    def read(self, start: int, n: int) -> bytes:
        return self._location.get_range(self._key, start, n) or b""

    def close(self) -> None:
        pass


def ranges_of(
    location: Location, key: str, ranges: Sequence[tuple[int, int]]
) -> list[bytes] | None:
    """Return several ranges of an object, one after the other."""
    found = [location.get_range(key, start, n) for start, n in ranges]
    return None if None in found else [part or b"" for part in found]


class OpenFile:
    """A file that is read piece by piece."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def read(self, start: int, n: int) -> bytes:
        return persist(lambda: self._read(start, n), str(self._path))

    def _read(self, start: int, n: int) -> bytes:
        try:
            with reading(self._path):
                return os.pread(self._fd, n, start)
        except ReadError:
            with suppress(OSError):  # what is open may be stale for ever, if its server restarted
                fresh = os.open(self._path, os.O_RDONLY)
                os.dup2(fresh, self._fd)
                os.close(fresh)
            raise

    def close(self) -> None:
        os.close(self._fd)


class Folder:
    """A store in a folder of a local or shared file system."""

    def __init__(self, path: str) -> None:
        self.url = path
        self._root = Path(path).absolute()  # workers may stand in another folder
        self._seen: tuple[int, int] | None = None
        """Device and inode of the store's folder, once this process has written there."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_seen": None}  # other hosts have other numbers

    def for_zarr(self) -> str:
        return str(self._root)

    def get(self, key: str) -> bytes | None:
        return self._read(key, Path.read_bytes)

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        def part(path: Path) -> bytes:
            fd = os.open(path, os.O_RDONLY)
            try:
                first = start if start >= 0 else max(0, os.fstat(fd).st_size + start)
                return os.pread(fd, n, first)
            finally:
                os.close(fd)

        return self._read(key, part)

    @property
    def far(self) -> bool:
        return False

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        return ranges_of(self, key, ranges)

    def opened(self, key: str) -> OpenFile | None:
        return self._read(key, lambda path: OpenFile(path, os.open(path, os.O_RDONLY)))

    def size(self, key: str) -> int | None:
        return self._read(key, lambda path: path.stat().st_size)

    def _read(self, key: str, look: Callable[[Path], Found]) -> Found | None:
        """Return what a look at a file gives, None where there is none."""
        path = self._root / key

        def attempt() -> Found | None:
            try:
                with reading(path):
                    return look(path)
            except ReadError as error:
                if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                    return None
                raise

        return persist(attempt, str(path))

    @property
    def alone(self) -> bool:
        return True

    def check_writable(self) -> None:
        pass  # the first write says why

    @contextmanager
    def lock(self) -> Iterator[None]:
        # The system drops this lock with the process, however that ends.
        fd = persist(self._taken, self.url)
        try:
            yield
        finally:
            os.close(fd)

    def _taken(self) -> int:
        """Return the descriptor of the file that this process has locked."""
        path = self._root / LOCK
        with writing(self.url):
            self._make(path.parent)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                if error.errno == errno.EAGAIN:
                    raise ExistsError(
                        f"{self.url} is being written by another process; wait for it to end"
                    ) from None
                raise
        return fd

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        self._write(key, lambda path: write_file(path, data, durable, self._make))

    def exchange(self, key: str, before: bytes | None, data: bytes) -> bool:
        if self.get(key) != before:  # the lock keeps others from coming in between
            return False
        self.put(key, data)
        return True

    def sink(self, key: str) -> FileSink:
        return FileSink(self._root / key, self._make)

    def sink_bytes(self, n_bytes: int) -> int:
        return min(n_bytes, BLOCK_BYTES)

    def remove(self, key: str) -> None:
        self._write(key, lambda path: path.unlink(missing_ok=True))

    def delete(self, prefix: str) -> None:
        # Step by step: whatever fails for a moment is tried again by itself.
        for name in _names_in(self._root / prefix):
            self.delete(f"{prefix}/{name}")
        self._write(prefix, _remove)

    def move(self, key: str, to: str) -> None:
        source = self._root / key

        def rename(target: Path) -> None:
            self._make(target.parent)
            os.replace(source, target)

        self._write(to, rename)

    def _make(self, folder: Path) -> None:
        """Make a folder of the store; the store's own only if it was not there before.

        Where a mount was lost its mount point is left, an empty folder of another disk.
        """
        if self._seen is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._seen = _identity(self._root)
        elif _identity(self._root) != self._seen:
            raise WriteError(
                f"cannot write {self.url}: its folder is gone, or another is in its place (a mount "
                "that was lost?); bring it back, then run it again"
            )
        else:
            folder.mkdir(parents=True, exist_ok=True)

    def _write(self, key: str, change: Callable[[Path], None]) -> None:
        """Change a file, again where that failed for a moment only."""
        path = self._root / key

        def attempt() -> None:
            with writing(path):
                change(path)

        persist(attempt, str(path))

    def keys(self, prefix: str) -> list[str]:
        top = self._root / prefix
        return sorted(path.relative_to(self._root).as_posix() for path in _files_below(top))


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from others that have had its name, None where there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _names_in(folder: Path) -> list[str]:
    """Return what is in a folder; nothing for what is none, a link to one included."""

    def look() -> list[str]:
        with writing(folder), suppress(FileNotFoundError):
            return os.listdir(folder) if stat.S_ISDIR(folder.lstat().st_mode) else []
        return []

    return persist(look, str(folder))


def _remove(path: Path) -> None:
    """Remove a file, a link or an empty folder, if it is there."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            path.rmdir()
        else:
            path.unlink()


def _files_below(folder: Path) -> Iterator[Path]:
    def look() -> list[tuple[str, bool]]:
        try:
            with reading(folder), os.scandir(folder) as entries:
                # A link to a folder is not followed: it may lead anywhere.
                return [(e.name, e.is_dir()) for e in entries if not _is_linked_folder(e)]
        except ReadError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return []
            raise

    for name, is_folder in persist(look, str(folder)):
        if is_folder:
            yield from _files_below(folder / name)
        else:
            yield folder / name


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and entry.is_dir()


class MemorySink:
    """Parts kept in memory until they can be one PUT."""

    def __init__(self, location: Location, key: str) -> None:
        self._location, self._key, self._data = location, key, bytearray()

    def append(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._data += part

    def room(self, least: int) -> None:
        return None

    def added(self, n: int) -> None:
        raise AssertionError("there was no room")

    def pause(self) -> None:
        pass

    def close(self) -> None:
        pass

    def commit(self) -> None:
        self._location.put(self._key, self._data)

    def abort(self) -> None:
        self._data = bytearray()


def require(location: Location, key: str) -> bytes:
    """Return the bytes of an object that must exist.

    Raises
    ------
    MissingError
        It does not; the message names it.
    """
    data = location.get(key)
    if data is None:
        raise MissingError(f"{location.url}/{key} does not exist; the store is incomplete")
    return data


def describe(location: Location) -> dict[str, Any]:
    """Return the files of a store: how many, and their bytes, by top folder (local stores)."""
    sizes: dict[str, list[int]] = {}
    for key in location.keys(""):
        path = Path(location.url, key).absolute()
        sizes.setdefault(key.split("/")[0], []).append(path.stat().st_size)
    return {top: {"n_files": len(s), "n_bytes": sum(s)} for top, s in sorted(sizes.items())}
