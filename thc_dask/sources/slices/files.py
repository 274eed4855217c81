"""The files of a stack: which ones, in which order, and still the same when they are read."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from thc_dask.errors import DataError, MissingError, RequestError

KINDS = {".tif": "tiff", ".tiff": "tiff", ".png": "png"}

Location = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Threads hide the latency of a network or a spinning disk; parsing itself gains nothing by them.
HEADER_THREADS = 8


class File(NamedTuple):
    """A file as it was when the stack was opened."""

    path: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of its last change."""


def find(location: Location) -> tuple[str, list[Path]]:
    """Return the one kind that all files have, and the files in order."""
    if isinstance(location, str | os.PathLike):
        paths = _find_at(Path(location))
    else:
        paths = [Path(item) for item in location]
    allowed = ", ".join(KINDS)
    if not paths:
        raise MissingError(f"slices: no files {allowed} in {location}; give the folder with them")
    firsts = {KINDS.get(path.suffix.lower()): path for path in reversed(paths)}
    if None in firsts:
        odd = firsts[None]
        raise RequestError(f"slices: {odd} has suffix {odd.suffix!r}; allowed: {allowed}")
    if len(firsts) > 1:
        raise RequestError(
            f"slices: PNG and TIFF are mixed: {firsts['png']} and {firsts['tiff']}; "
            "give a pattern such as '*.tif'"
        )
    return str(*firsts), paths


def _find_at(path: Path) -> list[Path]:
    if path.is_dir():
        found = _in_folder(path)
    elif path.exists():
        return [path]
    elif any(c in "*?[" for c in str(path)):
        found = [Path(name) for name in glob.glob(str(path))]
    else:
        raise MissingError(f"slices: no such file or folder: {path}; check the path")
    return sorted(found, key=_natural)


def _in_folder(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and e.is_file()]
    except OSError as error:
        raise DataError(f"slices: cannot list {folder}: {error.strerror}") from error
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in KINDS]


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order numbers within names by value."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)], path.name


def warm(paths: list[Path]) -> None:
    """Bring both ends of the files, where headers are, into the page cache, many at once."""

    def warm(part: list[Path]) -> None:
        for path in part:
            with suppress(OSError), open(path, "rb", buffering=0) as file:
                file.read(4096)
                file.seek(-1, os.SEEK_END)
                file.read(1)

    if len(paths) >= HEADER_THREADS:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            list(pool.map(warm, (paths[i::HEADER_THREADS] for i in range(HEADER_THREADS))))


@contextmanager
def opened(file: File) -> Iterator[int]:
    """Open a file to read, after a look whether it is still the same; yield its descriptor."""
    try:
        fd = os.open(file.path, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"slices: {file.path} was there at opening, now: {error.strerror}"
        ) from error
    try:
        stat = os.fstat(fd)
        if (stat.st_size, stat.st_mtime_ns) != file[1:]:
            raise DataError(f"slices: {file.path} has changed since it was opened; open it again")
        yield fd
    except OSError as error:
        raise DataError(f"slices: cannot read {file.path}: {error.strerror}") from error
    finally:
        os.close(fd)
