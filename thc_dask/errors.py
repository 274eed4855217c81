"""What can go wrong, as a family.

::

    ThcError
    ├── RequestError(ValueError)         the request is wrong: exit code 2, HTTP 4xx
    │   ├── MissingError(FileNotFoundError)    a named file, store, label set or region is not there
    │   ├── ExistsError(FileExistsError)       the target exists and may not be replaced
    │   └── AccessError(PermissionError)       credentials are missing, wrong, old or not enough
    └── FailureError(RuntimeError)       the request was right, the work failed: exit code 1
        ├── DataError                    bytes on disk are damaged or not what they say
        ├── UnfinishedError              a store whose conversion did not end
        ├── ReadError(OSError)           a source or store cannot be read: gone, out of reach
        └── WriteError(OSError)          the target cannot be written: full, read-only, gone

Every message names the file or value, says what is allowed and what to do.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ThcError(Exception):
    """Base of every error that ``thc_dask`` raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        # OSError renders (errno, text) pairs in its own way; the message is always args[0]
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # As tblib does it, for errors of Dask's workers, what is an OSError too comes back as none.
        return type(self), self.args, self.__dict__


class RequestError(ThcError, ValueError):
    """A wrong request: an argument, an option or an input of the wrong form."""

    exit_code = 2


class MissingError(RequestError, FileNotFoundError):
    """A file, store, label set, region or table that was named does not exist."""


class ExistsError(RequestError, FileExistsError):
    """The target exists and replacing it was not asked for."""


class AccessError(RequestError, PermissionError):
    """Credentials of object storage are missing, wrong, expired or not enough."""


class FailureError(ThcError, RuntimeError):
    """The request was right but the work could not be done."""


class DataError(FailureError):
    """Bytes that were read are damaged or disagree with their own description."""


class UnfinishedError(FailureError):
    """A store that a conversion began and did not end."""


class ReadError(FailureError, OSError):
    """A source or store cannot be read: gone, or out of reach, however often it was tried."""


class WriteError(FailureError, OSError):
    """The target cannot be written: disk full, read-only, or gone."""


AGAIN = "free space, then run it again"
ELSEWHERE = "choose another target"
BACK = "bring it back, then run it again"
REASONS = {
    errno.ENOSPC: f"the disk is full; {AGAIN}",
    errno.EDQUOT: f"the quota is used up; {AGAIN}",
    errno.EROFS: f"the file system is read-only; {ELSEWHERE}",
    errno.EACCES: f"no permission to write there; {ELSEWHERE}",
    errno.EPERM: f"no permission to write there; {ELSEWHERE}",
    errno.ENOTDIR: f"a part of the path is a file; {ELSEWHERE}",
    errno.EEXIST: f"a part of the path is a file; {ELSEWHERE}",
    errno.EISDIR: f"a folder has that name; {ELSEWHERE}",
    errno.ENOENT: f"its folder is gone (a mount that was lost?); {BACK}",
    errno.ENODEV: f"the disk is gone; {BACK}",
    errno.ENOTCONN: f"its file system is not connected; {BACK}",
}


@contextmanager
def writing(what: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while ``what`` is written into one line with a remedy.

    >>> with writing("r.html"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    thc_dask.errors.WriteError: cannot write r.html: the disk is full; free space, then run it again
    """
    try:
        yield
    except ThcError:
        raise
    except OSError as error:
        text = " ".join(str(error.strerror or error).split())
        reason = REASONS.get(number_of(error), text)
        raise WriteError(f"cannot write {what}: {reason}") from error


@contextmanager
def reading(what: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says while ``what`` is read into one line.

    >>> with reading("0/zarr.json"):
    ...     raise OSError(errno.EACCES, "Permission denied")
    Traceback (most recent call last):
    thc_dask.errors.ReadError: cannot read 0/zarr.json: Permission denied
    """
    try:
        yield
    except ThcError:
        raise
    except OSError as error:
        text = " ".join(str(error.strerror or error).split())
        raise ReadError(f"cannot read {what}: {text}") from error


def number_of(error: OSError) -> int:
    """Return the system's number of an error, also of those that libraries word themselves.

    >>> number_of(OSError("file read failed: errno = 5, error message = 'Input/output error'"))
    5
    """
    if error.errno:
        return error.errno
    text = str(error)
    if re.search(r"\d requested and \d+ written", text):  # numpy, of a write that stopped short
        return errno.ENOSPC
    found = re.search(r"\berrno = (\d+)", text)  # HDF5
    return int(found[1]) if found else 0
