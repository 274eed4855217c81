"""Which cluster was asked for: ``KIND``, ``KIND:MORE`` or a profile, and what that means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from thc_dask.cluster import profiles
from thc_dask.errors import RequestError

JOBS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
}
"""Batch systems, and the class of dask-jobqueue for each."""
KINDS = ("threads", "local", "scheduler", "scheduler-file", "ssh", *JOBS, "kubernetes", "gateway")
PROTOCOLS = ("tcp://", "tls://", "ws://", "wss://", "ucx://")
HOW = (
    "threads, local[:N], tcp://HOST:PORT, tls://HOST:PORT, scheduler-file:PATH, ssh:HOST,HOST, "
    f"{', '.join(f'{name}[:N]' for name in JOBS)}, kubernetes[:N], gateway[:N], or a profile"
)
PROFILE_KEYS = (
    "kind", "address", "hosts", "workers", "minimum", "maximum", "threads", "memory", "per_job",
    "lifetime", "stagger", "wait", "tls", "options", "dask",
)  # fmt: skip


@dataclass(frozen=True)
class Tls:
    """Files of keys and certificates, where every host finds them."""

    ca: str
    """Certificates that are trusted."""
    cert: str
    """Own certificate."""
    key: str
    """Own key."""


@dataclass(frozen=True)
class Settings:
    """A cluster as it is to be."""

    spec: str
    """What was asked for."""
    kind: str
    """One of ``KINDS``."""
    address: str = ""
    """Of the scheduler or the gateway; the path of a scheduler file."""
    hosts: tuple[str, ...] = ()
    """For ssh; the first runs the scheduler too."""
    workers: int | None = None
    """Processes; None leaves it to the kind."""
    minimum: int | None = None
    """Fewest workers, where their number follows the work."""
    maximum: int | None = None
    """Most workers, where their number follows the work."""
    threads: int = 1
    """Of a worker."""
    memory_bytes: int | None = None
    """Of a worker; None leaves it to the kind."""
    per_job: int = 1
    """Workers of a job of a batch system."""
    lifetime_s: float | None = None
    """After which a worker makes room, in seconds."""
    stagger_s: float = 0.0
    """By how much lifetimes differ, in seconds."""
    wait_s: float | None = None
    """For a scheduler and the first worker, in seconds; None leaves it to the kind."""
    tls: bool | Tls | None = None
    """Whether connections are encrypted, and with what."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the class that starts the cluster."""
    dask: Mapping[str, Any] = field(default_factory=dict)
    """Settings of Dask by their dotted names."""
    source: str = ""
    """File of the profile."""


def settings_of(spec: str) -> Settings:
    """Return the settings that a spec stands for.

    Raises
    ------
    RequestError
        There is no such kind or profile, or what stands in it is wrong; the message names the key.

    Examples
    --------
    >>> settings_of("slurm:16").workers, settings_of("tcp://10.0.0.1:8786").kind
    (16, 'scheduler')
    """
    if spec.startswith(PROTOCOLS):
        return _with_address(spec)
    name, _, more = spec.partition(":")
    known = profiles.read()
    if name in known:
        source, values = known[name]
        found = _of_profile(spec, name, source, values)
        return replace(found, **_count(spec, more)) if more else found
    if name == "scheduler-file" and more:
        return Settings(spec, name, address=os.path.expanduser(more))
    if name == "ssh" and more:
        return Settings(spec, name, hosts=tuple(h for h in more.split(",") if h))
    if name not in KINDS or name in ("scheduler", "scheduler-file", "ssh"):
        names = f" {', '.join(known)}" if known else "; thc cluster init makes a file of them"
        raise RequestError(f"cluster {spec!r}: give {HOW}{names}")
    return Settings(spec, name, **(_count(spec, more) if more else {}))


def _with_address(spec: str) -> Settings:
    if not re.fullmatch(r"\w+://[^/:]+:\d+/?|\w+://\[[0-9a-fA-F:]+\]:\d+/?", spec):
        raise RequestError(f"cluster {spec!r}: write host and port: tcp://10.0.0.1:8786")
    return Settings(spec, "scheduler", address=spec.rstrip("/"))


def _count(spec: str, more: str) -> dict[str, Any]:
    name = spec.partition(":")[0]
    if name == "threads":
        raise RequestError(f"cluster {spec!r}: threads are as many as there are cores")
    if not more.isdecimal() or int(more) < 1:
        raise RequestError(f"cluster {spec!r}: give the number of workers: {name}:4")
    return {"workers": int(more), "minimum": None, "maximum": None}


def _of_profile(spec: str, name: str, source: str, values: Any) -> Settings:
    """Return the settings of a profile, each value checked."""
    read = profiles.Profile(source, name, values, PROFILE_KEYS)
    kind = read.one_of("kind", KINDS)
    hosts, minimum, maximum = read.texts("hosts"), read.whole("minimum", 0), read.whole("maximum")
    if kind == "ssh" and not hosts:
        read.refuse("hosts", "is missing; write a list: [host1, host2]")
    if kind in ("scheduler", "scheduler-file") and not read.text("address"):
        read.refuse("address", "is missing; write tcp://HOST:PORT, or the path of the file")
    if kind == "scheduler" and not read.text("address").startswith(PROTOCOLS):
        read.refuse("address", f"is {read.text('address')!r}; write tcp://HOST:PORT")
    if (minimum is None) != (maximum is None) or (minimum or 0) > (maximum or 0):
        read.refuse("maximum", "and minimum go together, the larger last")
    return Settings(
        spec=spec, kind=kind, address=os.path.expanduser(read.text("address")), hosts=hosts,
        workers=read.whole("workers"), minimum=minimum, maximum=maximum,
        threads=read.whole("threads") or 1, memory_bytes=read.size("memory"),
        per_job=read.whole("per_job") or 1, lifetime_s=read.seconds("lifetime"),
        stagger_s=read.seconds("stagger") or 0.0, wait_s=read.seconds("wait"),
        tls=_tls(read), options=read.mapping("options"), dask=read.mapping("dask"), source=source,
    )  # fmt: skip


def _tls(read: profiles.Profile) -> bool | Tls | None:
    value = read.values.get("tls")
    if value is None or isinstance(value, bool):
        return value
    files = read.mapping("tls")
    if sorted(files) != ["ca", "cert", "key"]:
        read.refuse("tls", "is true, false, or {ca: FILE, cert: FILE, key: FILE}")
    return Tls(**{name: os.path.expanduser(str(path)) for name, path in files.items()})
