"""Clusters: from a word on the command line to workers that run, and back to nothing.

``running("slurm:16")`` starts jobs, hands out a ``distributed.Client`` that is current inside,
and ends what it started. Nothing else in the package knows what a cluster is made of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from thc_dask.cluster.settings import JOBS, Settings, settings_of
from thc_dask.errors import FailureError, RequestError

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger("thc_dask")

SAY_S = 30.0  # how long to wait for a first worker before that is said
DASK = {
    # What a worker holds is buffers that were planned: there is nothing to spill but time.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # A job that was cancelled is missed after this, and another one asked for.
    "distributed.deploy.lost-worker-timeout": "5s",
    # Logs for developers, one of the last messages to each worker among them: with them the
    # scheduler would hold a thousand messages a worker, and the items and results in these.
    "distributed.admin.low-level-log-length": 10,
}
"""Settings of Dask that suit the work here; a profile's go before them."""


@contextmanager
def running(spec: str | Settings) -> Generator[Any, None, None]:
    """Yield a ``distributed.Client`` of a cluster that is current inside; None for ``threads``.

    What was started is ended with the context; a scheduler that ran before runs on.

    Parameters
    ----------
    spec
        ``threads``, ``local:4``, ``tcp://HOST:PORT``, ``scheduler-file:PATH``, ``ssh:HOST,HOST``,
        ``slurm:16`` (or another batch system), ``kubernetes:4``, ``gateway:4``, or the name of a
        profile.

    Raises
    ------
    RequestError
        There is no such kind or profile, a package for it is missing, or its settings are wrong.
    FailureError
        It could not be started or reached, has other software, or no worker came in time.

    Examples
    --------
    >>> from thc_dask import convert
    >>> from tempfile import mkdtemp
    >>> with running("threads"):
    ...     volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr", levels=2)
    """
    settings = settings_of(spec) if isinstance(spec, str) else spec
    if settings.kind == "threads":
        yield None
        return
    import dask
    import distributed  # noqa: F401 -- inside `set` its own settings would go with what is set

    from thc_dask.cluster.versions import agree

    with (
        dask.config.set(DASK | dict(settings.dask)),
        _kind(settings.kind).started(settings) as place,
        connected(place, settings) as client,
    ):
        _await_worker(client, settings)
        agree(client)
        yield client


def shown(spec: str | Settings) -> str:
    """Return the job script, the specification of pods or the command that a cluster comes to.

    Nothing is started.

    Examples
    --------
    >>> print(shown("ssh:host1,host2").splitlines()[0])
    # on host1, by ssh
    """
    settings = settings_of(spec) if isinstance(spec, str) else spec
    import dask
    import distributed  # noqa: F401 -- as above

    with dask.config.set(DASK | dict(settings.dask)):
        text: str = _kind(settings.kind).shown(settings)
    return text


def _kind(kind: str) -> ModuleType:
    """Return the module that knows a kind: it has ``started`` and ``shown``."""
    if kind in ("threads", "local"):
        from thc_dask.cluster import local

        return local
    if kind in ("scheduler", "scheduler-file"):
        from thc_dask.cluster import existing

        return existing
    if kind == "ssh":
        from thc_dask.cluster import ssh

        return ssh
    if kind in JOBS:
        from thc_dask.cluster import jobs

        return jobs
    if kind == "kubernetes":
        from thc_dask.cluster import kubernetes

        return kubernetes
    from thc_dask.cluster import gateway

    return gateway


@contextmanager
def connected(place: Any, settings: Settings) -> Iterator[Any]:
    """Yield a client of a cluster, of an address, or of an address with its security."""
    from distributed import Client

    from thc_dask.cluster.existing import Place

    wait_s = settings.wait_s or 20.0
    if isinstance(place, Place):
        address, options = place.address, {"security": place.security} if place.security else {}
    else:
        address, options = place, {}
    try:
        client = Client(address, timeout=wait_s, **options)
    except (OSError, TimeoutError) as error:
        where = getattr(place, "address", None) or getattr(place, "scheduler_address", place)
        host, _, port = str(where).rpartition("://")[2].rpartition(":")
        raise FailureError(
            f"no scheduler answers at host {host}, port {port} (tried for {wait_s:g} s); see that "
            "it runs and that no firewall is in between"
        ) from error
    with client:
        yield client


def _await_worker(client: Any, settings: Settings) -> None:
    """Wait until there is a worker; say so from time to time."""
    began_s = time.monotonic()
    limit_s = settings.wait_s
    if limit_s is None and settings.kind not in JOBS:
        limit_s = 120.0
    while True:
        waited_s = time.monotonic() - began_s
        left_s = SAY_S if limit_s is None else min(SAY_S, limit_s - waited_s)
        if left_s <= 0:
            raise FailureError(
                f"cluster {settings.spec}: no worker came within {limit_s:g} s; see its logs, or "
                "give it more time (wait, in a profile)"
            )
        try:
            client.wait_for_workers(1, timeout=left_s)
            return
        except TimeoutError:
            waited_s = time.monotonic() - began_s
            log.warning("waiting for the first worker of %s (%.0f s)", settings.spec, waited_s)


def needs(package: str, extra: str) -> RequestError:
    """Return the error for a package that is not installed."""
    return RequestError(
        f"{package} is not installed; pip install 'thc_dask[{extra}]', or add it to the environment"
    )


Started = AbstractContextManager[Any]
"""Yields what a client connects to."""
