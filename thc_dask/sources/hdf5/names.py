"""Which file, and which dataset in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.files import File

SUFFIXES = ("h5", "hdf5", "hdf", "he5", "nxs")
EXCHANGE = "/exchange/data"
MOST_NAMES = 8  # of an error


def claims(location: str) -> bool:
    """Whether a location looks like one of an HDF5 file, with or without a dataset.

    >>> claims("scan.h5"), claims("scan.HDF5:/exchange/data"), claims("scan.tif")
    (True, True, False)
    """
    return _pattern().fullmatch(location) is not None


def _pattern() -> re.Pattern[str]:
    return re.compile(rf"(.*?\.(?:{'|'.join(SUFFIXES)}))(?:::?(.*))?", re.IGNORECASE)


def split(location: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Return the path of the file and the name of the dataset, None where none is given.

    >>> split("scan.h5:/exchange/data"), split("scan.h5::recon"), split("scan.h5")
    (('scan.h5', '/exchange/data'), ('scan.h5', 'recon'), ('scan.h5', None))
    """
    text = os.fspath(location)
    if os.path.exists(text):
        return text, None
    for found in re.finditer("::?", text):
        if os.path.isfile(text[: found.start()]):
            return text[: found.start()], text[found.end() :] or None
    match = _pattern().fullmatch(text)
    return (match[1], match[2] or None) if match else (text, None)


@contextmanager
def opened_by_library(file: File) -> Iterator[Any]:
    """Open a file by h5py to read."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise RequestError(
            f"hdf5: reading {file.path} needs h5py; install it: pip install 'thc_dask[formats]'"
        ) from None
    try:
        opened = h5py.File(file.path, "r")
    except BlockingIOError as error:
        raise DataError(
            f"hdf5: {file.path} is being written by another program; wait until it is closed"
        ) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    with opened:
        if opened.mode != "r":
            raise RequestError(f"hdf5: {file.path} is open for writing in this program; close it")
        yield opened


def _unreadable(file: File, error: OSError) -> DataError:
    reason = " ".join(str(error).split())
    if "signature not found" in reason:
        return DataError(f"hdf5: {file.path} is not an HDF5 file")
    if found := re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", reason):
        return DataError(
            f"hdf5: {file.path} is truncated: it has {found[1]} of {found[2]} bytes; copy it again"
        )
    return DataError(f"hdf5: cannot read {file.path}: {error.strerror or reason}")


def find_dataset(file: Any, name: str | None) -> Any:
    """Return the dataset of that name, else the one that must be meant.

    Raises
    ------
    MissingError
        No dataset of that name; the message lists those there are.
    RequestError
        None was named, and there are several to choose from.
    """
    import h5py

    if name is not None:
        return _named(file, name)
    if isinstance(file.get(EXCHANGE), h5py.Dataset):
        return file[EXCHANGE]
    found = _arrays(file)
    best = [d for d in found if d.ndim == 3] or found
    if len(best) == 1:
        return best[0]
    if not best:
        raise RequestError(f"hdf5: {file.filename} holds no dataset of 3 (or 2) axes of numbers")
    raise RequestError(
        f"hdf5: {file.filename} holds several datasets; name one, as in {file.filename}:"
        f"{best[0].name} (there are {_listed(best)})"
    )


def _named(file: Any, name: str) -> Any:
    import h5py

    try:
        found = file[name]
    except (KeyError, OSError, ValueError) as error:
        link = file.get(name, getlink=True) if name in file else None
        if isinstance(link, h5py.ExternalLink):
            raise MissingError(
                f"hdf5: {name} of {file.filename} is a link to {link.path} of {link.filename}, "
                "which is not there; bring that file beside it"
            ) from error
        raise MissingError(
            f"hdf5: {file.filename} has no dataset {name}; it has {_listed(_arrays(file))}"
        ) from error
    if not isinstance(found, h5py.Dataset):
        raise RequestError(
            f"hdf5: {name} of {file.filename} is no dataset; it holds {_listed(_arrays(found))}"
        )
    return found


def _arrays(group: Any) -> list[Any]:
    """Return the datasets below a group that may be volumes or planes."""
    import h5py

    found: list[Any] = []
    numbers = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)

    def visit(_: str, item: Any) -> None:
        # Not every type of HDF5 has a numpy type to ask for.
        if (
            isinstance(item, h5py.Dataset)
            and len(item.shape or ()) in (2, 3)
            and item.id.get_type().get_class() in numbers
        ):
            found.append(item)

    if isinstance(group, h5py.Group):
        group.visititems(visit)
    return found


def _listed(datasets: list[Any]) -> str:
    texts = [f"{d.name} {d.shape} {d.dtype}" for d in datasets[:MOST_NAMES]]
    more = [f"{len(datasets) - MOST_NAMES} more"] if len(datasets) > MOST_NAMES else []
    return ", ".join(texts + more) or "no dataset of 2 or 3 axes"
