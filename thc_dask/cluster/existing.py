"""A scheduler that runs already, by its address or by the file it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thc_dask.cluster.settings import Settings, Tls
from thc_dask.errors import MissingError, RequestError, reading


@dataclass(frozen=True)
class Place:
    """Where a scheduler is and how to talk to it."""

    address: str
    security: Any = None


@contextmanager
def started(settings: Settings) -> Iterator[Place]:
    """Yield the place of the scheduler."""
    address = _address(settings)
    security = security_of(settings)
    if address.startswith("tls://") and security is None:
        security = _configured()
    yield Place(address, security)


def shown(settings: Settings) -> str:
    """Return what is connected to."""
    if settings.kind == "scheduler-file":
        return f"the scheduler that wrote {settings.address}"
    return f"the scheduler at {settings.address}"


def _address(settings: Settings) -> str:
    if settings.kind == "scheduler":
        return settings.address
    path = Path(settings.address)
    try:
        with reading(path):
            text = path.read_text()
    except OSError as error:
        if path.exists():
            raise
        raise MissingError(
            f"{path} does not exist; start it with: dask scheduler --scheduler-file {path}"
        ) from error
    try:
        return str(json.loads(text)["address"])
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{path} names no address; it is no file of a scheduler") from None


def security_of(settings: Settings) -> Any:
    """Return the keys that a profile names, None where it names none."""
    tls = settings.tls
    if not isinstance(tls, Tls):
        return None
    for path in (tls.ca, tls.cert, tls.key):
        if not Path(path).is_file():
            raise MissingError(f"{path} does not exist; {settings.source} names it under tls")
    return security_from(tls)


def security_from(tls: Tls) -> Any:
    """Return what Dask makes of files of keys, the same ones for every role."""
    from distributed.security import Security

    roles = ("client", "scheduler", "worker")
    return Security(
        tls_ca_file=tls.ca,
        require_encryption=True,
        **{f"tls_{role}_cert": tls.cert for role in roles},
        **{f"tls_{role}_key": tls.key for role in roles},
    )


def _configured() -> Any:
    """Return the keys that Dask's own settings name."""
    from distributed.security import Security

    found = Security()
    if not found.get_tls_config_for_role("client").get("cert"):
        raise RequestError(
            "a tls:// scheduler wants keys: name them in a profile (tls: {ca: , cert: , key: }) or "
            "in Dask's own settings (distributed.comm.tls)"
        )
    return found
