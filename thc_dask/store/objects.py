"""A store in object storage: one object is one PUT, and nobody's change is lost unseen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from thc_dask.remote import Remote, zarr_place
from thc_dask.store.filesink import Buffer
from thc_dask.store.lease import Lease
from thc_dask.store.location import LOCK, MemorySink, Ranges


class Objects:
    """A store at ``s3://``, ``gs://``, ``az://``, or, to be read only, at ``http(s)://``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lease: Lease | None = None

    def __reduce__(self) -> Any:
        # The lease stays with the process that took it; its tasks write wherever they run.
        return type(self), (self.url,)

    @cached_property
    def _remote(self) -> Remote:
        return Remote(self.url)

    def for_zarr(self) -> Any:
        return zarr_place(self.url)

    def get(self, key: str) -> bytes | None:
        return self._remote.get(key)

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        return self._remote.get_range(key, start, n)

    @property
    def far(self) -> bool:
        return True

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        return self._remote.get_ranges(key, ranges)

    def opened(self, key: str) -> Ranges:
        return Ranges(self, key)

    def size(self, key: str) -> int | None:
        return self._remote.size(key)

    @property
    def alone(self) -> bool:
        return self._lease is not None

    def check_writable(self) -> None:
        self._remote.check_writable()

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.check_writable()
        lease = Lease(self._remote, LOCK)
        if not lease.take():
            yield
            return
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.give_back()

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        self._still_mine()
        self._remote.put(key, data)

    def exchange(self, key: str, before: bytes | None, data: bytes) -> bool:
        self._still_mine()
        found = None
        if before is not None:
            found = self._remote.get_version(key)
            if found is None or found[0] != before:
                return False
        try:
            return self._remote.exchange(key, found[1] if found else None, data) is not None
        except NotImplementedError:
            if before is None and self._remote.get(key) is not None:
                return False
            self._remote.put(key, data)
            return True

    def sink(self, key: str) -> MemorySink:
        return MemorySink(self, key)

    def sink_bytes(self, n_bytes: int) -> int:
        return n_bytes

    def remove(self, key: str) -> None:
        self._still_mine()
        self._remote.delete([key])

    def delete(self, prefix: str) -> None:
        self._still_mine()
        self._remote.delete(self.keys(prefix) or [key for key in (prefix,) if key])

    def move(self, key: str, to: str) -> None:
        self._still_mine()
        self._remote.copy(key, to)
        self._remote.delete([key])

    def keys(self, prefix: str) -> list[str]:
        return sorted(found.key for found in self._remote.list(prefix))

    def _still_mine(self) -> None:
        if self._lease is not None:
            self._lease.check()
