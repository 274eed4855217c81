"""Workers as jobs of a batch system, by dask-jobqueue."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thc_dask.cluster.existing import security_of
from thc_dask.cluster.scaling import scaled
from thc_dask.cluster.settings import JOBS, Settings
from thc_dask.errors import FailureError, RequestError

WORKERS = 4
MEMORY_BYTES = 4 * 2**30
KEYS = "~/.cache/thc_dask"  # homes are what the nodes of a batch system share
LIFE, STAGGER = 0.9, 0.05  # of the walltime: a worker that leaves by itself loses nothing
PLACE = "SCHEDULER:PORT"
OF_CLUSTER = ("scheduler_options", "shared_temp_directory", "name", "silence_logs")
"""Options of the cluster; all others are those of a job."""


@contextmanager
def started(settings: Settings) -> Iterator[Any]:
    """Yield a cluster whose jobs have been submitted; what is cancelled is submitted again."""
    cls = _class(settings)
    submit = shlex.split(cls.job_cls.submit_command or "")[:1]
    if not submit or shutil.which(submit[0]) is None:
        raise FailureError(
            f"cluster {settings.spec}: {submit[0] if submit else 'its command'} is not on the "
            "PATH; start it where jobs are submitted"
        )
    keys = Path(settings.options.get("shared_temp_directory") or KEYS).expanduser()
    security = security_of(settings)
    if security is None and settings.tls is not False:
        security = _temporary()
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    options: dict[str, Any] = {"scheduler_options": {}, "shared_temp_directory": str(keys)}
    options |= _options(settings) | {"security": security}
    options["scheduler_options"] = {"dashboard_address": ":0"} | options["scheduler_options"]
    if security is not None:
        options["protocol"] = "tls://"
    cluster = _made(settings, lambda: cls(**options))
    try:
        _submit(cluster, settings)
        yield cluster
    finally:
        with suppress(AssertionError):  # of a job that was never submitted
            cluster.close()


def shown(settings: Settings) -> str:
    """Return the script of a job."""
    options = {k: v for k, v in _options(settings).items() if k not in OF_CLUSTER}
    protocol = "tcp://"
    if settings.tls is not False:
        from distributed.security import Security

        keys = settings.options.get("shared_temp_directory") or KEYS
        files = {
            n: f"{Path(keys).expanduser()}/{n}.pem"
            for n in ("ca_file", "worker_cert", "worker_key")
        }
        security = security_of(settings) or Security(
            require_encryption=True, **{f"tls_{name}": path for name, path in files.items()}
        )
        protocol = "tls://"
        options |= {"security": security, "protocol": protocol}
    cls = _class(settings)
    script = _made(settings, lambda: cls.job_cls(f"{protocol}{PLACE}", name="NAME", **options))
    return str(script.job_script()).strip()


def _class(settings: Settings) -> Any:
    try:
        import dask_jobqueue
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("dask-jobqueue", "cluster") from error
    return getattr(dask_jobqueue, JOBS[settings.kind])


def _options(settings: Settings) -> dict[str, Any]:
    """Return what the class of dask-jobqueue is given."""
    import dask

    more, n = dict(settings.options), settings.per_job
    options: dict[str, Any] = {
        "job_name": "thc-worker",
        "cores": n * settings.threads,
        "processes": n,
        "memory": f"{n * (settings.memory_bytes or MEMORY_BYTES)}B",
    }
    from thc_dask.cluster import DASK

    settings_of_dask = DASK | dict(settings.dask)
    prologue = [f"export {_variable(k)}={shlex.quote(str(v))}" for k, v in settings_of_dask.items()]
    walltime = more.get("walltime") or dask.config.get(f"jobqueue.{settings.kind}.walltime", None)
    arguments = _lifetime(settings, walltime)
    return options | more | {
        "job_script_prologue": [*prologue, *more.get("job_script_prologue", ())],
        "worker_extra_args": [*arguments, *more.get("worker_extra_args", ())],
    }  # fmt: skip


def _variable(key: str) -> str:
    """Return the variable that sets a key of Dask's.

    >>> _variable("distributed.deploy.lost-worker-timeout")
    'DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT'
    """
    return "DASK_" + key.replace(".", "__").replace("-", "_").upper()


def _lifetime(settings: Settings, walltime: Any) -> list[str]:
    """Return the arguments that let workers leave before their job is ended."""
    life_s, stagger_s = settings.lifetime_s, settings.stagger_s
    if life_s is None:
        wall_s = seconds_of(walltime)
        if wall_s is None:
            return []
        life_s, stagger_s = LIFE * wall_s, stagger_s or STAGGER * wall_s
    return ["--lifetime", f"{life_s:g}s", "--lifetime-stagger", f"{stagger_s:g}s"]


def seconds_of(walltime: Any) -> float | None:
    """Return a walltime in seconds, None for what is not written as ``[days-][hours:]min:s``.

    >>> seconds_of("01:30:00"), seconds_of("2-00:00:00"), seconds_of("90"), seconds_of(None)
    (5400.0, 172800.0, None, None)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", str(walltime))
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _temporary() -> Any:
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("cryptography, for keys made for this run,", "cluster") from error


def _made(settings: Settings, make: Any) -> Any:
    """Return what ``make`` makes; what is wrong with an option is said of the profile."""
    try:
        return make()
    except (TypeError, ValueError) as error:
        where = settings.source or f"cluster {settings.spec}"
        text = " ".join(str(error).split())
        raise RequestError(f"{where}: options of {JOBS[settings.kind]}: {text[:300]}") from error


def _submit(cluster: Any, settings: Settings) -> None:
    """Submit jobs, now: what the batch system refuses is heard of here."""
    n = settings.workers or WORKERS
    if settings.maximum is not None:
        n = settings.minimum or 0

    async def submit() -> None:
        cluster.scale(n)
        await cluster._correct_state()

    try:
        cluster.sync(submit)
    except (OSError, RuntimeError, ValueError) as error:
        text = str(error)
        said = text.partition("stderr:")[2] or text
        raise FailureError(
            f"cluster {settings.spec}: a job was refused: {' '.join(said.split())}; thc cluster "
            f"show {settings.spec} --dry-run prints its script"
        ) from error
    scaled(cluster, settings, n)
