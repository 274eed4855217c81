"""A store behind any other URL that fsspec knows: ``memory://``, ``sftp://``, ``hdfs://``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from thc_dask.errors import RequestError, writing
from thc_dask.store.filesink import Buffer
from thc_dask.store.location import MemorySink, Ranges, ranges_of


class Foreign:
    """A store behind an fsspec URL; one object is one call, and there are no locks."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise RequestError(f"store {url}: {error}") from error

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def for_zarr(self) -> str:
        return self.url

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

    @property
    def far(self) -> bool:
        return True

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        return ranges_of(self, key, ranges)

    def opened(self, key: str) -> Ranges:
        return Ranges(self, key)

    def size(self, key: str) -> int | None:
        try:
            return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            return None

    @property
    def alone(self) -> bool:
        return False

    def check_writable(self) -> None:
        pass

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        with writing(f"{self.url}/{key}"):
            self._fs.pipe_file(self._path(key), bytes(data))

    def exchange(self, key: str, before: bytes | None, data: bytes) -> bool:
        # Whoever comes between the look and the write is not seen.
        if self.get(key) != before:
            return False
        self.put(key, data)
        return True

    def sink(self, key: str) -> MemorySink:
        return MemorySink(self, key)

    def sink_bytes(self, n_bytes: int) -> int:
        return n_bytes

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
