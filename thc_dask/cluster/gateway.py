"""Workers that a Dask gateway starts for its users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError, RequestError

WORKERS = 4
OF_GATEWAY = ("proxy_address", "public_address", "auth")
"""Options of the connection; all others are what the gateway's owner lets users choose."""


@contextmanager
def started(settings: Settings) -> Iterator[Any]:
    """Yield a cluster of the gateway."""
    with ExitStack() as stack:
        yield _cluster(settings, stack)


def _cluster(settings: Settings, stack: ExitStack) -> Any:
    try:
        import dask_gateway
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("dask-gateway", "gateway") from error
    connection, chosen = _options(settings)
    where = connection.get("address") or _configured() or "(no address)"
    cls = dask_gateway.GatewayCluster
    cluster = cls.__new__(cls)
    stack.callback(_let_go, cluster)
    try:
        cluster.__init__(shutdown_on_close=True, **connection, **chosen)
        if settings.maximum is None:
            cluster.scale(settings.workers or WORKERS)
        else:
            cluster.adapt(minimum=settings.minimum, maximum=settings.maximum)
    except (ValueError, TypeError) as error:
        raise RequestError(f"gateway {where}: {' '.join(str(error).split())}") from error
    except Exception as error:  # its client has many, those of HTTP among them
        text = " ".join(str(error).split()) or type(error).__name__
        raise FailureError(f"gateway {where}: {text}; see that it runs and knows you") from error
    return cluster


def _let_go(cluster: Any) -> None:
    """Close a cluster, however far it came."""
    gateway = getattr(cluster, "gateway", None)
    if gateway is None:
        return
    with suppress(Exception):  # what ended it is the news; the gateway ends what nobody uses
        cluster.close()
    # It would close itself once more when it goes, without its loop, and complain of that.
    cluster.status = "closed"
    vars(gateway).pop("_loop_runner", None)


def shown(settings: Settings) -> str:
    """Return what would be asked of the gateway."""
    connection, chosen = _options(settings)
    where = connection.get("address") or _configured() or "the address in Dask's gateway.yaml"
    n = f"{settings.workers or WORKERS} workers"
    if settings.maximum is not None:
        n = f"{settings.minimum} to {settings.maximum} workers"
    choice = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    return f"a cluster of the gateway at {where}, {n}" + (f", with {choice}" if choice else "")


def _options(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the connection, and those of the cluster."""
    connection = {k: v for k, v in settings.options.items() if k in OF_GATEWAY}
    if settings.address:
        connection["address"] = settings.address
    return connection, {k: v for k, v in settings.options.items() if k not in OF_GATEWAY}


def _configured() -> str:
    import dask

    return str(dask.config.get("gateway.address", None) or "")
