"""Workers on hosts that are reached by ssh."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thc_dask.cluster.existing import security_of
from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError


@contextmanager
def started(settings: Settings) -> Iterator[Any]:
    """Yield a cluster: a scheduler on the first host, workers on all."""
    try:
        import asyncssh
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("asyncssh", "ssh") from error
    from distributed import SSHCluster

    options = _options(settings)
    try:
        cluster = SSHCluster(**options)
    except (OSError, RuntimeError, asyncssh.Error) as error:
        raise FailureError(
            f"cluster {settings.spec}: {' '.join(str(error).split()) or type(error).__name__}; see "
            f"that ssh {settings.hosts[0]} works without a password and has this Python"
        ) from error
    with cluster:
        yield cluster


def shown(settings: Settings) -> str:
    """Return the commands that would be run, and where."""
    options = _options(settings)
    python = options["remote_python"]
    lines = []
    for i, host in enumerate(options["hosts"]):
        role = "scheduler" if i == 0 else "worker"
        lines += [f"# on {host}, by ssh",
                  f"{python} -m distributed.cli.dask_spec  # {role}: "
                  f"{json.dumps(options[f'{role}_options'], default=str)}"]  # fmt: skip
    return "\n".join(lines)


def _options(settings: Settings) -> dict[str, Any]:
    more = dict(settings.options)
    n = settings.workers or len(settings.hosts)
    worker: dict[str, Any] = {"nthreads": settings.threads}
    if settings.memory_bytes:
        worker["memory_limit"] = settings.memory_bytes
    if settings.lifetime_s:
        worker |= {"lifetime": settings.lifetime_s, "lifetime_stagger": settings.stagger_s,
                   "lifetime_restart": True}  # fmt: skip
    scheduler: dict[str, Any] = {"port": 0, "dashboard_address": ":0"}
    security = security_of(settings)
    options: dict[str, Any] = {"remote_python": sys.executable}
    if security is not None:
        options["security"] = scheduler["security"] = worker["security"] = security
    return options | more | {
        # Workers go around among the hosts.
        "hosts": [settings.hosts[0], *(settings.hosts[i % len(settings.hosts)] for i in range(n))],
        "worker_options": worker | dict(more.get("worker_options", {})),
        "scheduler_options": scheduler | dict(more.get("scheduler_options", {})),
    }  # fmt: skip
