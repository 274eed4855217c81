"""The files of a stack: which ones, and in which order."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from thc_dask.errors import DataError, MissingError, RequestError

KINDS = {
    ".tif": "tiff", ".tiff": "tiff", ".png": "png", ".jp2": "jpeg2000", ".j2k": "jpeg2000"
}  # fmt: skip

Location = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

GAPS = 4  # where more than one number in so many is left out, planes were chosen

# Threads hide the latency of a network or a spinning disk; parsing itself gains nothing by them.
HEADER_THREADS = 8


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
        one, other = (str(firsts[kind]) for kind in sorted(map(str, firsts))[:2])
        raise RequestError(
            f"slices: files of several kinds are mixed: {one} and {other}; give a pattern such as "
            "'*.tif'"
        )
    if isinstance(location, str | os.PathLike) and len(paths) > 1:
        _warn_of_gap(paths)
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
            names = [e.name for e in entries if e.name[0] != "." and _is_meant(e)]
    except OSError as error:
        raise DataError(f"slices: cannot list {folder}: {error.strerror}") from error
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in KINDS]


def _is_meant(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link to one that is gone: that must not go unnoticed."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _warn_of_gap(paths: Sequence[Path]) -> None:
    """Warn where files are numbered one after the other but for a few."""
    parts = [re.split(r"([0-9]+)", path.name) for path in paths]
    if len({len(p) for p in parts}) > 1:
        return
    varied = [i for i, texts in enumerate(zip(*parts, strict=True)) if len({*texts}) > 1]
    if len(varied) != 1 or varied[0] % 2 == 0:
        return
    numbers = [int(p[varied[0]]) for p in parts]
    steps = [b - a for a, b in pairwise(numbers)]
    usual = min(steps)
    lost = sum(step - 1 for step in steps)
    if usual == 1 and 0 < GAPS * lost <= len(paths):
        at = next(i for i, step in enumerate(steps) if step != usual)
        warnings.warn(
            f"slices: {lost} of the numbers {numbers[0]} to {numbers[-1]} are left out, the first "
            f"between {paths[at]} and {paths[at + 1].name}; planes follow one another as if none "
            "were missing",
            stacklevel=4,
        )


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
