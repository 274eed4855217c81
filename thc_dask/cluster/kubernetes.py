"""Workers as pods, by the operator of dask-kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thc_dask.cluster.scaling import scaled
from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError, RequestError

WORKERS = 4
MEMORY_BYTES = 4 * 2**30
IMAGE = "thc-dask:latest"
OF_SPEC = ("name", "image", "n_workers", "resources", "env", "worker_command",
           "scheduler_service_type", "idle_timeout")  # fmt: skip
"""Options that describe pods; all others say how the cluster is handled."""


@contextmanager
def started(settings: Settings) -> Iterator[Any]:
    """Yield a cluster whose pods have been asked for."""
    operator = _operator()
    spec = _spec(settings)
    more = {k: v for k, v in settings.options.items() if k not in (*OF_SPEC, "custom_cluster_spec")}
    try:
        cluster = operator.KubeCluster(custom_cluster_spec=spec, quiet=True, **more)
    except TypeError as error:
        raise RequestError(f"{settings.source}: options of KubeCluster: {error}") from error
    except Exception as error:  # the client of Kubernetes has many
        text = " ".join(str(error).split()) or type(error).__name__
        raise FailureError(
            f"cluster {settings.spec}: {text[:300]}; see that kubectl reaches the cluster and that "
            "the Dask operator runs there"
        ) from error
    with cluster:
        scaled(cluster, settings)
        yield cluster


def shown(settings: Settings) -> str:
    """Return the resource that would be created, as YAML."""
    import yaml

    return str(yaml.safe_dump(_spec(settings), sort_keys=False)).rstrip()


def _operator() -> Any:
    try:
        from dask_kubernetes import operator
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("dask-kubernetes", "kubernetes") from error
    return operator


def _spec(settings: Settings) -> Any:
    """Return the DaskCluster resource."""
    if "custom_cluster_spec" in settings.options:
        return settings.options["custom_cluster_spec"]
    from thc_dask.cluster import DASK
    from thc_dask.cluster.jobs import _variable

    make = _operator().make_cluster_spec
    n = settings.minimum if settings.maximum is not None else settings.workers or WORKERS
    memory_bytes = settings.memory_bytes or MEMORY_BYTES
    needed = {"cpu": str(settings.threads), "memory": f"{-(-memory_bytes // 2**20)}Mi"}
    command = ["dask", "worker", "--nthreads", str(settings.threads)]
    command += ["--memory-limit", str(memory_bytes)]
    env = {_variable(k): str(v) for k, v in {**DASK, **settings.dask}.items()}
    options: dict[str, Any] = {
        "name": "thc", "image": IMAGE, "n_workers": n, "worker_command": command,
        "resources": {"requests": needed, "limits": needed}, "env": env,
    }  # fmt: skip
    options |= {k: v for k, v in settings.options.items() if k in OF_SPEC}
    if isinstance(settings.options.get("env"), dict):
        options["env"] = env | settings.options["env"]
    return make(**options)
