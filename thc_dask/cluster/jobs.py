"""Workers as jobs of a batch system, by dask-jobqueue."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thc_dask.cluster.existing import security_from, security_of
from thc_dask.cluster.scaling import scaled
from thc_dask.cluster.settings import JOBS, Settings, Tls
from thc_dask.errors import FailureError, RequestError, writing

WORKERS = 4
MEMORY_BYTES = 4 * 2**30
SHARED = "~/.cache/thc_dask"  # homes are what the nodes of a batch system share
KEYS = ("ca", "cert", "key")
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
    options = _options(settings)
    options["scheduler_options"] = {"dashboard_address": ":0"} | options["scheduler_options"]
    with ExitStack() as stack:
        security = security_of(settings)
        if security is None and settings.tls is not False:
            security = stack.enter_context(_keys(settings))
        if security is not None:
            options |= {"security": security, "protocol": "tls://"}
        cluster = stack.enter_context(
            _made(settings, lambda: cls(job_cls=_telling(cls.job_cls), **options))
        )
        _submit(cluster, settings)
        yield cluster


@contextmanager
def _keys(settings: Settings) -> Iterator[Any]:
    """Yield keys made for this run, in files that only this user reads, where nodes find them."""
    from distributed.security import Security

    try:
        made = Security.temporary()
    except ImportError as error:
        from thc_dask.cluster import needs

        raise needs("cryptography, for keys made for this run,", "cluster") from error
    top = Path(settings.options.get("shared_temp_directory") or SHARED).expanduser()
    with writing(top):
        top.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="keys-", dir=top, ignore_cleanup_errors=True) as folder:
        files = Tls(*(f"{folder}/{name}.pem" for name in KEYS))
        for path, text in (
            (files.ca, made.tls_ca_file),
            (files.cert, made.tls_worker_cert),
            (files.key, made.tls_worker_key),
        ):
            with writing(path), open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(text)
        yield security_from(files)


def _telling(job: Any) -> Any:
    """Return the class of a job that knows when it was refused: a cluster of such can be closed."""
    from distributed.core import Status

    async def start(self: Any) -> None:
        try:
            await job.start(self)
        except BaseException:
            self.status = Status.failed
            raise

    return type(job.__name__, (job,), {"start": start})


def shown(settings: Settings) -> str:
    """Return the script of a job."""
    options = {k: v for k, v in _options(settings).items() if k not in OF_CLUSTER}
    protocol = "tcp://"
    if settings.tls is not False:
        top = Path(settings.options.get("shared_temp_directory") or SHARED).expanduser()
        security = security_of(settings) or security_from(Tls(*(f"{top}/{n}.pem" for n in KEYS)))
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
        "log_directory": str(Path(SHARED, "logs").expanduser()),
        "scheduler_options": {},
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
        for _ in range(-(-n // settings.per_job)):
            cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster

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
