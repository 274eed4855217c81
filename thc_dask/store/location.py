"""Where a store is: a folder or a URL, behind the few operations the store needs.

Every object appears whole or not at all: written beside its name and renamed in a folder,
a single PUT on object storage.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from thc_dask.errors import ExistsError, MissingError, RequestError, writing

Buffer = bytes | bytearray | memoryview

LOCK = "thc/lock"  # held by the process that writes


class Sink(Protocol):
    """An object being written; nobody sees it before ``commit``."""

    def append(self, parts: Sequence[Buffer]) -> None:
        """Add bytes at the end."""

    def commit(self) -> None:
        """Make the object appear, whole."""

    def abort(self) -> None:
        """Leave nothing behind."""


class Location(Protocol):
    """Keys with bytes behind them; keys look like ``0/image/c/0/0/0``."""

    url: str

    def get(self, key: str) -> bytes | None:
        """Return all bytes of an object, None where there is none."""

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        """Return ``n`` bytes from ``start`` on (from the end if negative), None where absent."""

    def size(self, key: str) -> int | None:
        """Return the bytes of an object, None where there is none."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep other writers out; ExistsError where one is at work."""

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        """Write an object, whole; ``durable`` waits until a power cut cannot lose it."""

    def sink(self, key: str) -> Sink:
        """Begin an object that comes in parts."""

    def remove(self, key: str) -> None:
        """Remove one object, if it is there."""

    def delete(self, prefix: str) -> None:
        """Remove the object of that key, or all below it."""

    def move(self, key: str, to: str) -> None:
        """Give an object another key, in place of what has that key."""

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below ``prefix``, sorted."""


def locate(store: str | os.PathLike[str]) -> Location:
    """Return the location of a path or of any URL that fsspec knows.

    >>> locate("volume.ome.zarr").url
    'volume.ome.zarr'
    """
    text = os.fspath(store)
    if not text:
        raise RequestError("store: give a path or a URL, not an empty name")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return Remote(text.rstrip("/"))
    return Folder(text.rstrip("/") or "/")


def write_file(path: str | os.PathLike[str], data: Buffer) -> None:
    """Write a file, whole or not at all; its folder is made if needed.

    Raises
    ------
    WriteError
        It cannot be written; what was there before still is.
    """
    target = Path(path)
    Folder(str(target.parent)).put(target.name, data)


class Folder:
    """A store in a folder of a local or shared file system."""

    def __init__(self, path: str) -> None:
        self.url = path
        self._root = Path(path).absolute()  # workers may stand in another folder

    def get(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        try:
            fd = os.open(self._root / key, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            if start < 0:
                start = max(0, os.fstat(fd).st_size + start)
            return os.pread(fd, n, start)
        finally:
            os.close(fd)

    def size(self, key: str) -> int | None:
        try:
            return (self._root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        # The system drops this lock with the process, however that ends.
        path = self._root / LOCK
        with writing(self.url):
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ExistsError(
                    f"{self.url} is being written by another process; wait for it to end"
                ) from None
            yield
        finally:
            os.close(fd)

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        sink = self.sink(key)
        try:
            sink.append([data])
            sink.commit(durable)
        except BaseException:
            sink.abort()
            raise

    def sink(self, key: str) -> FileSink:
        return FileSink(self._root / key)

    def remove(self, key: str) -> None:
        path = self._root / key
        with writing(str(path)):
            path.unlink(missing_ok=True)

    def delete(self, prefix: str) -> None:
        path = self._root / prefix if prefix else self._root
        with writing(str(path)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def move(self, key: str, to: str) -> None:
        target = self._root / to
        with writing(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._root / key, target)

    def keys(self, prefix: str) -> list[str]:
        top = self._root / prefix
        found = (Path(d, f) for d, _, files in os.walk(top) for f in files)
        return sorted(path.relative_to(self._root).as_posix() for path in found)


class FileSink:
    """A file written under another name in its own folder, then renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with writing(str(path)):
            try:
                self._fd = os.open(self._partial, flags, 0o666)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self._partial, flags, 0o666)

    def append(self, parts: Sequence[Buffer]) -> None:
        with writing(str(self._path)):
            for i in range(0, len(parts), 512):  # the system takes at most IOV_MAX parts
                views = [memoryview(part).cast("B") for part in parts[i : i + 512]]
                while views:
                    n = os.writev(self._fd, views)
                    while views and n >= len(views[0]):
                        n -= len(views.pop(0))
                    if n:
                        views[0] = views[0][n:]

    def commit(self, durable: bool = True) -> None:
        with writing(str(self._path)):
            if durable:
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            os.replace(self._partial, self._path)

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)


class Remote:
    """A store behind an fsspec URL; one object is one PUT."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise RequestError(f"store {url}: {error}") from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        try:
            if start < 0:
                return bytes(self._fs.cat_file(self._path(key), start=start))[:n]
            return bytes(self._fs.cat_file(self._path(key), start=start, end=start + n))
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        try:
            return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        with writing(f"{self.url}/{key}"):
            self._fs.pipe_file(self._path(key), bytes(data))

    def sink(self, key: str) -> MemorySink:
        return MemorySink(self, key)

    def remove(self, key: str) -> None:
        with writing(f"{self.url}/{key}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete(self, prefix: str) -> None:
        with writing(f"{self.url}/{prefix}"), suppress(FileNotFoundError):
            self._fs.rm(self._path(prefix), recursive=True)

    def move(self, key: str, to: str) -> None:
        with writing(f"{self.url}/{to}"):
            self._fs.mv(self._path(key), self._path(to))

    def keys(self, prefix: str) -> list[str]:
        found = self._fs.find(self._path(prefix))
        root = self._fs._strip_protocol(self._root).rstrip("/")
        return sorted(str(path).removeprefix(root).lstrip("/") for path in found)


class MemorySink:
    """Parts kept in memory until they can be one PUT."""

    def __init__(self, location: Remote, key: str) -> None:
        self._location, self._key, self._data = location, key, bytearray()

    def append(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self._data += part

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
