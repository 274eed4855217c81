"""Processes of this machine, and threads of this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thc_dask.cluster.scaling import scaled
from thc_dask.cluster.settings import Settings
from thc_dask.schedule import n_threads


@contextmanager
def started(settings: Settings) -> Iterator[Any]:
    """Yield a cluster of worker processes."""
    from distributed import LocalCluster

    with LocalCluster(**_options(settings)) as cluster:
        scaled(cluster, settings)
        yield cluster


def shown(settings: Settings) -> str:
    """Return what would be called."""
    if settings.kind == "threads":
        return f"{n_threads()} threads of this process"
    options = ", ".join(f"{name}={value!r}" for name, value in _options(settings).items())
    return f"distributed.LocalCluster({options})"


def _options(settings: Settings) -> dict[str, Any]:
    n = settings.minimum if settings.maximum is not None else settings.workers
    options: dict[str, Any] = {
        "n_workers": max(1, n_threads() // settings.threads) if n is None else n,
        "threads_per_worker": settings.threads,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        "security": settings.tls is True or None,
    }
    if settings.memory_bytes:
        options["memory_limit"] = settings.memory_bytes
    if settings.lifetime_s:
        options |= {"lifetime": settings.lifetime_s, "lifetime_stagger": settings.stagger_s,
                    "lifetime_restart": True}  # fmt: skip
    return options | dict(settings.options)
