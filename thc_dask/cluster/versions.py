"""Whether scheduler and workers run what is run here."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from thc_dask.errors import FailureError

PACKAGES = ("thc_dask", "dask", "distributed", "numpy", "numba", "zstandard", "zarr", "cloudpickle")
VITAL = ("python", "thc_dask", "dask", "distributed")


def agree(client: Any) -> None:
    """Raise FailureError where what decides about bytes and messages differs; a few messages."""
    wrong = disagreements(client, VITAL)
    if wrong:
        raise FailureError(f"{wrong[0]}; install the same on all of them")


def disagreements(client: Any, names: tuple[str, ...] = ("python", *PACKAGES)) -> list[str]:
    """Return what scheduler or workers have in another version than this process, in words."""
    found = []
    for name in names:
        here = _short(name, _version(name))
        # Only the standard library is sure to be there: of these functions only names are sent.
        ask, given = (
            (platform.python_version, ()) if name == "python" else (metadata.version, (name,))
        )
        try:
            places = {"the scheduler": client.run_on_scheduler(ask, *given)}
        except metadata.PackageNotFoundError:
            places = {"the scheduler": "none"}
        for address, version in client.run(ask, *given, on_error="return").items():
            places[f"the worker at {address}"] = version if isinstance(version, str) else "none"
        odd = {p: v for p, v in places.items() if _short(name, v) != here}
        if odd:
            where, version = next(iter(odd.items()))
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            found.append(f"{where}{more} has {name} {version}, this process {here}")
    return found


def _version(name: str) -> str:
    return platform.python_version() if name == "python" else metadata.version(name)


def _short(name: str, version: str) -> str:
    # Bytecode of functions is sent: the last number of Python does not change it.
    return ".".join(version.split(".")[:2]) if name == "python" else version
