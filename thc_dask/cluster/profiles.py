"""Profiles: clusters by name, in a commented YAML file beside Dask's own settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from thc_dask.errors import ExistsError, RequestError, writing

FILE = "thc_dask.yaml"
SHIPPED = Path(__file__).with_name("profiles.yaml")


def folders() -> list[Path]:
    """Return where Dask looks for settings, the strongest last."""
    own = os.environ.get("DASK_CONFIG")
    return [
        Path(os.environ.get("DASK_ROOT_CONFIG", "/etc/dask")),
        Path(sys.prefix) / "etc" / "dask",
        Path.home() / ".config" / "dask",
        *([Path(own).expanduser()] if own else []),
    ]


def _files() -> Iterator[Path]:
    for folder in folders():
        path = folder if folder.is_file() else folder / FILE
        if path.is_file():
            yield path


def read() -> dict[str, tuple[str, Any]]:
    """Return the profiles by name, each with the file that has it; the strongest file wins.

    Raises
    ------
    RequestError
        A file is no YAML, or not of that form; the message names file and line or key.
    """
    found: dict[str, tuple[str, Any]] = {}
    for path in _files():
        for name, values in _read(path).items():
            found[str(name)] = str(path), values
    return found


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is no YAML"
        raise RequestError(f"{path}{where}: {problem}; mend it, or remove the file") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    for key in ("thc_dask", "clusters"):
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise RequestError(f"{path}: {key} is to be in a mapping; thc cluster init shows how")
        values = values.get(key)
    if values is not None and not isinstance(values, dict):
        raise RequestError(f"{path}: thc_dask.clusters is to be a mapping of names to profiles")
    return values or {}


def init() -> Path:
    """Put the file of examples beside the user's settings of Dask and return its path.

    Raises
    ------
    ExistsError
        There is one.
    """
    top = folders()[-1]
    path = top if top.suffix in (".yaml", ".yml") else top / FILE
    if path.exists():
        raise ExistsError(f"{path} exists; change it, or move it away first")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SHIPPED.read_bytes())
    return path


@dataclass(frozen=True)
class Profile:
    """The values of a profile; each is asked for as what it is to be."""

    source: str
    """File that it stands in."""
    name: str
    values: Any
    known: Sequence[str]
    """Keys that there are."""

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict):
            raise RequestError(f"{self.source}: clusters.{self.name} is no mapping with a kind")
        for key in self.values:
            if key not in self.known:
                self.refuse(str(key), f"is unknown; known: {', '.join(self.known)}")

    def refuse(self, key: str, why: str) -> NoReturn:
        """Raise RequestError that names file and key."""
        raise RequestError(f"{self.source}: clusters.{self.name}.{key} {why}")

    def one_of(self, key: str, known: Sequence[str]) -> str:
        """Return a word out of a few."""
        value = self.values.get(key)
        if value not in known:
            self.refuse(key, f"is {value!r}; known: {', '.join(known)}")
        return str(value)

    def text(self, key: str) -> str:
        """Return a text, empty where there is none."""
        value = self.values.get(key) or ""
        if not isinstance(value, str):
            self.refuse(key, f"is {value!r}; write a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts."""
        value = self.values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.refuse(key, f"is {value!r}; write a list: [a, b]")
        return tuple(value)

    def whole(self, key: str, least: int = 1) -> int | None:
        """Return a whole number, None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.refuse(key, f"is {value!r}; write a whole number from {least} on")
        return value

    def size(self, key: str) -> int | None:
        """Return bytes, None where there are none."""
        value = self.values.get(key)
        if value is None:
            return None
        from dask.utils import parse_bytes

        try:
            return int(parse_bytes(value))
        except (ValueError, TypeError):
            self.refuse(key, f"is {value!r}; write it like 4GiB")

    def seconds(self, key: str) -> float | None:
        """Return a time in seconds, None where there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        from dask.utils import parse_timedelta

        try:
            return float(parse_timedelta(value))
        except (ValueError, TypeError, KeyError, AttributeError):
            self.refuse(key, f"is {value!r}; write it like 60s or 55m")

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return a mapping, empty where there is none."""
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            self.refuse(key, f"is {value!r}; write a mapping")
        return value
