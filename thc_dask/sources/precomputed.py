"""Neuroglancer *precomputed* volumes, in a folder, a bucket or behind a web server, by TensorStore.

Many public volumes lie in buckets in this form, those of bossDB among them.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, FailureError, MissingError, RequestError, ThcError
from thc_dask.grid import Extent, Grid, Um, Vox

PREFIX = "precomputed://"
FORM = (
    "write it as precomputed://gs://bucket/path, precomputed://s3://bucket/path, "
    "precomputed://https://host/path or precomputed:///folder, perhaps with ?level=2"
)
RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "16s"}
DEADLINE_S = 600.0
# Without any of these nobody has given credentials, and the search for them takes seconds.
AWS_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PrecomputedVolume:
    """Voxels of a precomputed volume as a ``Reader``: see ``open_precomputed``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel."""
    unit: Vox
    """A chunk (z, y, x)."""
    provenance: dict[str, Any]
    """kind, location, level, volume type, shape, dtype and a fingerprint of its description."""
    location: str
    spec: str
    """What TensorStore opens, as JSON."""
    first: Vox
    """Coordinates of voxel (0, 0, 0) in the volume (z, y, x)."""

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the volume's own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once. Chunks that are not stored are zeros.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the volume.
        DataError
            A chunk is damaged.
        FailureError
            The volume cannot be reached.
        """
        stop = tuple(a + n for a, n in zip(start, out.shape, strict=False))
        wanted = Extent(start, stop)
        if (out.dtype, out.ndim) != (self.dtype, 3) or not self.grid.extent.contains(wanted):
            raise RequestError(
                f"source {self.location}: cannot give {out.shape} {out.dtype} voxels from {start} "
                f"on; there are {self.grid.shape} {self.dtype}"
            )
        if not out.size:
            return
        ts = import_tensorstore()
        z, y, x = wanted.shift(self.first).slices
        volume = _open(self.spec, os.getpid(), self.location)
        view = volume[x, y, z, 0][ts.d[:].translate_to[0]]
        # Straight into the caller's memory; x is the fastest axis there and the first one here.
        _result(ts.array(out.T, copy=False, write=True).write(view), self.location)


def open_precomputed(
    location: str,
    spacing_um: Um | None = None,
    *,
    level: int | None = None,
    retries: dict[str, Any] | None = None,
) -> PrecomputedVolume:
    """Return a Neuroglancer precomputed volume as a reader; its voxels stay where they are.

    Buckets are read with the credentials of the environment, without any as the public.

    Parameters
    ----------
    location
        ``precomputed://`` and a folder or URL: ``precomputed://gs://bucket/path``, ``s3://``,
        ``https://``, ``http://``, ``file:///``; perhaps with ``?level=2`` at its end.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers at that level; None takes the volume's.
    level
        0 is the finest; wins over the one in the location.
    retries
        ``max_retries``, ``initial_delay``, ``max_delay`` of TensorStore's requests.

    Returns
    -------
    PrecomputedVolume
        dims (z, y, x), one channel, of the volume's own dtype. Its origin is where the volume's
        offset puts it, and the centre of a coarser voxel is the mean of the centres it stands for.

    Raises
    ------
    MissingError
        There is no such volume, or no such level of it.
    RequestError
        TensorStore is missing, the location is wrong, permission is missing, or the volume has
        several channels.
    DataError
        Its description cannot be understood.
    FailureError
        It cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> import tensorstore as ts
    >>> folder = tempfile.mkdtemp()
    >>> made = ts.open(
    ...     {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}"},
    ...     dtype=ts.uint8,
    ...     shape=[5, 4, 3, 1],
    ...     dimension_units=["1170nm", "1170nm", "2000nm", None],
    ...     create=True,
    ... ).result()
    >>> reader = open_precomputed(f"precomputed://{folder}")
    >>> reader.grid.shape, reader.grid.spacing_um, reader.dtype.name
    ((3, 4, 5), (2.0, 1.17, 1.17), 'uint8')
    """
    path, level = _parse(location, level)
    kvstore = _kvstore(path, location)
    limits = retries or RETRIES
    context = {f"{kind}_request_retries": limits for kind in ("http", "s3", "gcs")}
    info, text = _info(kvstore, context, location)
    scales = info["scales"]
    if level >= len(scales):
        raise MissingError(f"source {location}: level {level}; there are 0 to {len(scales) - 1}")
    if info.get("num_channels", 1) != 1:
        raise RequestError(
            f"source {location}: it has {info['num_channels']} channels; one can be read"
        )
    spec = json.dumps(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": kvstore,
            "context": context,
            "scale_index": level,
        }
    )
    volume = _open(spec, os.getpid(), location)
    first, shape = volume.domain.origin[2::-1], volume.domain.shape[2::-1]
    grid = _grid(scales, level, first, shape, spacing_um, location)
    unit = tuple(
        min(c, n) for c, n in zip(volume.chunk_layout.read_chunk.shape[2::-1], shape, strict=True)
    )
    provenance = {
        "kind": "precomputed",
        "location": f"{PREFIX}{path}",
        "level": level,
        "volume_type": str(info.get("type", "")),
        "shape": list(shape),
        "dtype": volume.dtype.numpy_dtype.name,
        "fingerprint": blake2b(text, digest_size=16).hexdigest(),
    }
    return PrecomputedVolume(
        grid,
        volume.dtype.numpy_dtype,
        unit,
        provenance,
        location,
        spec,
        tuple(first),
    )


def import_tensorstore() -> Any:
    """Return ``tensorstore``; raise RequestError where it is not installed."""
    try:
        return importlib.import_module("tensorstore")
    except ImportError as error:
        raise RequestError(
            f"precomputed:// addresses need a package that is missing ({error.name}); "
            'pip install "thc_dask[precomputed]"'
        ) from error


def _parse(location: str, level: int | None) -> tuple[str, int]:
    """Return where the volume lies, and the level.

    >>> _parse("precomputed://gs://bucket/path?level=2", None)
    ('gs://bucket/path', 2)
    """
    found = re.fullmatch(r"precomputed://(.+?)(?:\?level=(\d+))?", location)
    if found is None or (level is not None and level < 0):
        raise RequestError(f"source {location}: {FORM}")
    return found[1], int(found[2] or 0) if level is None else level


def _kvstore(path: str, location: str) -> dict[str, Any] | str:
    """Return what TensorStore calls the place of a volume."""
    url = urlsplit(path)
    if not url.scheme and path.startswith("/"):
        return {"driver": "file", "path": f"{path.rstrip('/')}/"}
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        return {"driver": "file", "path": f"{unquote(url.path).rstrip('/')}/"}
    if url.scheme == "s3" and url.netloc:
        return _s3(url.netloc, f"{url.path.strip('/')}/".lstrip("/"))
    if url.scheme in ("gs", "http", "https") and url.netloc:
        return f"{path.rstrip('/')}/"
    raise RequestError(f"source {location}: {FORM}")


def _s3(bucket: str, path: str) -> dict[str, Any]:
    """Return an S3 bucket with the settings of the environment."""
    kvstore: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": path}
    credentials = os.path.expanduser("~/.aws/credentials")
    if not any(os.environ.get(name) for name in AWS_CREDENTIALS) and not os.path.exists(
        credentials
    ):
        kvstore["aws_credentials"] = {"type": "anonymous"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        kvstore |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    return kvstore


def _info(kvstore: Any, context: dict[str, Any], location: str) -> tuple[dict[str, Any], bytes]:
    """Return the description of a volume, and its bytes."""
    ts = import_tensorstore()
    try:
        opened = ts.KvStore.open(kvstore, context=ts.Context(context)).result()
    except ValueError as error:
        raise RequestError(f"source {location}: {FORM}; {_reason(error)}") from error
    found = _result(opened.read("info"), location)
    if found.state != "value":
        raise MissingError(f"source {location}: there is no precomputed volume, no file 'info'")
    try:
        info = json.loads(found.value)
        if not info["scales"]:
            raise ValueError("it has no scales")
        return info, found.value
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"source {location}: its 'info' describes no precomputed volume: {error}"
        ) from error


def _grid(
    scales: Any, level: int, first: Any, shape: Any, spacing_um: Um | None, location: str
) -> Grid:
    """Return the grid of a level; corners of all levels coincide, so centres move."""
    finest, own = ([float(nm) / 1000 for nm in scales[k]["resolution"][::-1]] for k in (0, level))
    origin = [n * p + (p - q) / 2 for n, p, q in zip(first, own, finest, strict=True)]
    if spacing_um is not None:
        origin = [t / p * new for t, p, new in zip(origin, own, spacing_um, strict=True)]
    try:
        return Grid(tuple(shape), spacing_um or tuple(own), tuple(origin))  # type: ignore[arg-type]
    except ThcError as error:
        raise DataError(f"source {location}: its 'info' is wrong: {error}") from error


@lru_cache(maxsize=64)
def _open(spec: str, process: int, location: str) -> Any:
    """Return an open volume; ``process`` keeps a forked child from its parent's."""
    return _result(import_tensorstore().open(json.loads(spec), read=True), location)


def _result(future: Any, location: str) -> Any:
    """Wait for TensorStore, and say what went wrong in words of ours."""
    try:
        return future.result(timeout=DEADLINE_S)
    except TimeoutError as error:
        future.cancel()
        raise FailureError(
            f"source {location}: no answer within {DEADLINE_S:.0f} s; try again later"
        ) from error
    except ValueError as error:
        code, _, reason = _reason(error).partition(": ")
        if code in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            raise RequestError(
                f"source {location}: no permission: {reason}; give credentials that may read it"
            ) from error
        if code in (
            "ABORTED",
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            "INTERNAL",
        ):
            raise FailureError(f"source {location}: {reason}; try again later") from error
        raise DataError(f"source {location}: {reason or code}; copy the volume again") from error


def _reason(error: Exception) -> str:
    """Return an error of TensorStore in one line, without its own notes."""
    return " ".join(re.sub(r" \[[a-z_ ]+=.*", "", str(error), flags=re.S).split())
