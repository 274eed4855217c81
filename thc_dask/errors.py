"""What can go wrong, as a family.

::

    ThcError
    ├── RequestError(ValueError)         the request is wrong: exit code 2, HTTP 4xx
    │   ├── MissingError(FileNotFoundError)    a named file, store, label set or region is not there
    │   └── ExistsError(FileExistsError)       the target exists and may not be replaced
    └── FailureError(RuntimeError)       the request was right, the work failed: exit code 1
        ├── DataError                    bytes on disk are damaged or not what they say
        ├── UnfinishedError              a store whose conversion did not end
        └── WriteError(OSError)          the target cannot be written: full, read-only, gone

Every message names the file or value, says what is allowed and what to do.
"""

from __future__ import annotations


class ThcError(Exception):
    """Base of every error that ``thc_dask`` raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        # OSError renders (errno, text) pairs in its own way; the message is always args[0]
        return str(self.args[0]) if self.args else ""


class RequestError(ThcError, ValueError):
    """A wrong request: an argument, an option or an input of the wrong form."""

    exit_code = 2


class MissingError(RequestError, FileNotFoundError):
    """A file, store, label set, region or table that was named does not exist."""


class ExistsError(RequestError, FileExistsError):
    """The target exists and replacing it was not asked for."""


class FailureError(ThcError, RuntimeError):
    """The request was right but the work could not be done."""


class DataError(FailureError):
    """Bytes that were read are damaged or disagree with their own description."""


class UnfinishedError(FailureError):
    """A store that a conversion began and did not end."""


class WriteError(FailureError, OSError):
    """The target cannot be written: disk full, read-only, or gone."""
