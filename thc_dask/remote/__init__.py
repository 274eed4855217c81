"""Objects behind a URL: the one way to reach them, for sources and for stores.

``Remote`` reads and writes them; ``zarr_place`` is what zarr opens. Whoever sends one to another
process sends its URL: keys and tokens stay where they are, and are looked for anew there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from thc_dask.errors import RequestError, ThcError
from thc_dask.remote import failures
from thc_dask.remote.address import Address, parse
from thc_dask.remote.address import is_remote as is_remote
from thc_dask.remote.client import connect, is_anonymous
from thc_dask.retry import Patience, persist

Answer = TypeVar("Answer")
Buffer = bytes | bytearray | memoryview

# The client itself tries again what a server refused or a connection lost; what is left is an
# answer that breaks off.
PATIENCE = Patience(n_tries=6, first_s=0.1, longest_s=5.0, deadline_s=300.0)
ONE_PUT_BYTES = 2**28  # larger objects are sent in parts; they too appear whole
PART_BYTES = 2**26


class Listed(NamedTuple):
    """An object as a listing has it."""

    key: str
    n_bytes: int
    tag: str
    """Differs where its bytes do."""


class Version(NamedTuple):
    """What a conditional PUT asks for: the object is still this one."""

    tag: str | None
    version: str | None


class Remote:
    """Objects below a URL of object storage or of the web; keys are relative to it.

    Errors are ours, of one line: what cannot be reached, read or written, and what to do.
    """

    def __init__(self, url: str) -> None:
        self.address: Address = parse(url)

    def __reduce__(self) -> Any:
        return type(self), (self.address.url,)

    @property
    def url(self) -> str:
        """Where they are, as it was named."""
        return self.address.url

    def check_writable(self) -> None:
        """Raise RequestError where nothing can ever be written."""
        if self.address.service == "http":
            raise RequestError(
                f"{self.url} can only be read: http has no way to write; give a folder, or a URL "
                "of s3://, gs:// or az://"
            )

    @cached_property
    def client(self) -> Any:
        """The client of ``obstore``."""
        return connect(self.address)

    def get(self, key: str) -> bytes | None:
        """Return all bytes of an object, None where there is none."""
        import obstore

        return self._read(key, lambda: bytes(obstore.get(self.client, key).bytes()))

    def get_version(self, key: str) -> tuple[bytes, Version] | None:
        """Return an object and which version of it that is."""
        import obstore

        def get() -> tuple[bytes, Version]:
            found = obstore.get(self.client, key)
            meta = found.meta
            return bytes(found.bytes()), Version(meta["e_tag"], meta["version"])

        return self._read(key, get)

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        """Return ``n`` bytes from ``start`` on (from the end if negative), None where absent."""
        import obstore

        if n <= 0:
            return b""
        if start < 0:
            end: Any = {"range": {"suffix": -start}}
            found = self._read(
                key, lambda: bytes(obstore.get(self.client, key, options=end).bytes())
            )
            return None if found is None else found[:n]
        return self._read(
            key, lambda: bytes(obstore.get_range(self.client, key, start=start, length=n))
        )

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """Return several (start, n) of an object, side by side; None where there is none."""
        import obstore

        starts, lengths = [a for a, _ in ranges], [n for _, n in ranges]
        return self._read(
            key,
            lambda: [
                bytes(part)
                for part in obstore.get_ranges(
                    self.client, key, starts=starts, lengths=lengths, coalesce=0
                )
            ],
        )

    def size(self, key: str) -> int | None:
        """Return the bytes of an object, None where there is none."""
        import obstore

        return self._read(key, lambda: int(obstore.head(self.client, key)["size"]))

    def last_change(self, key: str) -> float | None:
        """Return when an object was written, in seconds since 1970 on the server's clock."""
        import obstore

        return self._read(
            key, lambda: float(obstore.head(self.client, key)["last_modified"].timestamp())
        )

    def put(self, key: str, data: Buffer) -> None:
        """Write an object by one PUT; in parts, and whole all the same, above ``ONE_PUT_BYTES``."""
        import obstore

        parts = len(data) > ONE_PUT_BYTES
        self._write(
            key,
            lambda: obstore.put(
                self.client, key, data, use_multipart=parts, chunk_size=PART_BYTES,
                max_concurrency=4,
            ),
        )  # fmt: skip

    def exchange(self, key: str, before: Version | None, data: bytes) -> Version | None:
        """Write an object if it still is ``before`` (None: if there is none).

        Returns the version that it has now; None where somebody else was there first. Where the
        first try was done but its answer was lost, that is found out by a look.

        Raises
        ------
        NotImplementedError
            The service does not know such conditions.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        mode: Any = "create"
        if before is not None:
            mode = {"e_tag": before.tag, "version": before.version}
            mode = {name: value for name, value in mode.items() if value is not None}

        def put() -> Version | None:
            try:
                made = obstore.put(self.client, key, data, mode=mode)
                return Version(made["e_tag"], made["version"])
            except (AlreadyExistsError, PreconditionError):
                return None
            except (NotSupportedError, NotImplementedError) as error:
                raise NotImplementedError(str(error)) from error

        done = self._write(key, put)
        if done is not None:
            return done
        found = self.get_version(key)
        return found[1] if found is not None and found[0] == data else None

    def copy(self, key: str, to: str) -> None:
        """Copy an object on the server."""
        import obstore

        self._write(to, lambda: obstore.copy(self.client, key, to))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, if they are there; many by one request where the service can."""
        import obstore

        def delete() -> None:
            with suppress(FileNotFoundError):  # some services say that there was none
                obstore.delete(self.client, keys[0] if len(keys) == 1 else list(keys))

        if keys:
            self._write(keys[0] if len(keys) == 1 else "", delete)

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Yield the objects below a prefix; none on the web, where nobody lists."""
        import obstore

        if self.address.service == "http":
            return

        def listed() -> list[Listed]:
            stream = obstore.list(self.client, prefix.rstrip("/") or None, chunk_size=1000)
            return [
                Listed(meta["path"], meta["size"], str(meta["e_tag"]))
                for page in stream
                for meta in page
            ]

        yield from self._attempt(prefix, listed, writes=False)

    def reading(self, action: Callable[[], Answer]) -> Answer:
        """Return what somebody else reads with this client, zarr say; tried again like all here."""
        return self._attempt("", action, writes=False)

    def _read(self, key: str, action: Callable[[], Answer]) -> Answer | None:
        try:
            return self._attempt(key, action, writes=False)
        except FileNotFoundError as error:
            if isinstance(error, ThcError):
                raise
            return None

    def _write(self, key: str, action: Callable[[], Answer]) -> Answer:
        self.check_writable()
        return self._attempt(key, action, writes=True)

    def _attempt(self, key: str, action: Callable[[], Answer], writes: bool) -> Answer:
        """Return ``action()``, tried again while there is hope; raise errors of ours.

        An object that is not there stays a plain FileNotFoundError, a condition that the service
        does not know a NotImplementedError.
        """
        import obstore.exceptions

        _ = self.client  # wrong settings are no failed try
        try:
            return persist(
                action, f"{self.url}/{key}".rstrip("/"), PATIENCE, judge=failures.judge,
                give_up=lambda what, error, fault, n: self._explain(key, error, writes, n),
            )  # fmt: skip
        except FileNotFoundError as error:
            if isinstance(error, ThcError):
                raise
            if failures.read_refusal(error).code in failures.NO_BUCKET or writes:
                raise self._explain(key, error, writes) from error
            raise
        except obstore.exceptions.BaseError as error:
            if failures.read_refusal(error).status == 501:
                raise NotImplementedError(str(error)) from error
            raise self._explain(key, error, writes) from error

    def _explain(self, key: str, error: Exception, writes: bool, n_tries: int = 0) -> ThcError:
        config = getattr(self.client, "config", {})
        return failures.explain(
            self.address, key, error, writes=writes, anonymous=is_anonymous(self.address),
            region=str(config.get("region", "")), n_tries=n_tries,
        )  # fmt: skip


def zarr_place(url: str) -> Any:
    """Return what ``zarr.open`` and xarray take for a path or URL: itself, or a store to read."""
    if not is_remote(url):
        return url
    from zarr.storage import ObjectStore

    return ObjectStore(connect(parse(url)), read_only=True)
