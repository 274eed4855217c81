"""What bossDB says of a channel: shape, spacing, type, and how its levels lie on one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thc_dask.errors import DataError, MissingError, RequestError, ThcError
from thc_dask.grid import Grid, Um, Vox
from thc_dask.sources.bossdb.address import Address
from thc_dask.sources.bossdb.client import Patience, Server, ask, import_intern, odd_answer
from thc_dask.units import micrometers

CUBOID: Vox = (16, 512, 512)


@dataclass(frozen=True)
class Described:
    """A channel at one level."""

    grid: Grid
    """Of the level; its origin is where the coordinate frame puts it."""
    first: Vox
    """Coordinates of voxel (0, 0, 0) in requests (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel."""
    cuboid: Vox
    """What the server stores and decodes at a time (z, y, x)."""
    kind: str
    """``image`` or ``annotation``."""


def describe(address: Address, server: Server, patience: Patience) -> Described:
    """Return what the server says of a channel.

    Raises
    ------
    MissingError
        There is no such channel, or no such level of it.
    RequestError
        No permission.
    DataError
        What it says cannot be understood.
    """
    client = server.client(patience)
    found = _Metadata(address, server, patience, client)
    experiment = found.experiment()
    frame = found.frame(experiment.coord_frame)
    channel = found.channel(experiment)
    grid, first = _native(address, frame)
    cuboid = CUBOID
    if address.level:
        grid, cuboid = _coarse(address, grid, first, experiment, channel, found)
    return Described(grid, first, np.dtype(channel.datatype), cuboid, channel.type)


class _Metadata:
    """The requests for metadata of one channel."""

    def __init__(self, address: Address, server: Server, patience: Patience, client: Any) -> None:
        self._address, self._server, self._patience = address, server, patience
        self._client = client
        self._boss = import_intern("resource.boss")

    def experiment(self) -> Any:
        a = self._address
        return self._get(self._boss.ExperimentResource(a.experiment, a.collection))

    def frame(self, name: str) -> Any:
        return self._get(self._boss.CoordinateFrameResource(name))

    def channel(self, experiment: Any) -> Any:
        a = self._address
        try:
            return self._get(self._boss.ChannelResource(a.channel, a.collection, a.experiment))
        except MissingError as error:
            names = ", ".join(map(str, experiment.raw.get("channels", [])))
            raise MissingError(f"{error} The experiment has: {names or 'no channels'}") from error

    def levels(self) -> Any:
        """Return what there is of coarser levels; ``intern`` has no call for it."""
        a, service = self._address, self._client.project_service
        url = f"{service.url_prefix}/v1/downsample/{a.collection}/{a.experiment}/{a.channel}/"
        headers = service.service.get_headers("application/json", service.auth)

        def get() -> Any:
            response = service.session.get(url, headers=headers, **service.session_send_opts)
            response.raise_for_status()
            return response.json()

        return ask(get, f"source {a}", self._server, self._patience)

    def _get(self, resource: Any) -> Any:
        import requests

        def get() -> Any:
            try:
                return self._client.get_project(resource)
            except requests.RequestException:
                raise
            except ValueError as error:  # a type or unit that intern does not know
                raise DataError(
                    f"source {self._address}: {resource.name}: {error}; its keeper has to mend it"
                ) from error
            except (KeyError, TypeError, AttributeError) as error:
                raise odd_answer(f"source {self._address}", self._server) from error

        return ask(get, f"source {self._address}", self._server, self._patience)


def _native(address: Address, frame: Any) -> tuple[Grid, Vox]:
    """Return the grid of level 0 and the coordinates of its first voxel."""
    first = tuple(int(getattr(frame, f"{axis}_start")) for axis in "zyx")
    stop = tuple(int(getattr(frame, f"{axis}_stop")) for axis in "zyx")
    sizes = (getattr(frame, f"{axis}_voxel_size") for axis in "zyx")
    # What is no length is no spacing either.
    spacing = tuple(micrometers(float(size), frame.voxel_unit) or 0.0 for size in sizes)
    shape = tuple(b - a for a, b in zip(first, stop, strict=True))
    try:
        origin = tuple(a * p for a, p in zip(first, spacing, strict=True))
        return Grid(shape, spacing, origin), first  # type: ignore[arg-type, return-value]
    except ThcError as error:
        raise DataError(
            f"source {address}: coordinate frame {frame.name}: {error}; its keeper has to mend it"
        ) from error


def _coarse(
    address: Address, native: Grid, first: Vox, experiment: Any, channel: Any, found: _Metadata
) -> tuple[Grid, Vox]:
    """Return the grid and the cuboids of a coarser level."""
    if channel.downsample_status != "DOWNSAMPLED":
        raise MissingError(
            f"source {address}: the channel has level 0 only, its downsampling is "
            f"{channel.downsample_status.lower().replace('_', ' ')}; leave the level out"
        )
    n_levels = int(experiment.num_hierarchy_levels)
    if address.level >= n_levels:
        raise MissingError(f"source {address}: the channel has levels 0 to {n_levels - 1}")
    if any(first):
        # The server holds coordinates of every level against the frame of level 0.
        raise RequestError(
            f"source {address}: its frame begins at voxel {first} (z,y,x); of such channels bossDB "
            "gives level 0 only; leave the level out"
        )
    levels, key = found.levels(), str(address.level)
    try:
        shape, cuboid = (_zyx(levels[name][key], int) for name in ("extent", "cuboid_size"))
        sizes, size0 = (_zyx(levels["voxel_size"][k], float) for k in (key, "0"))
        factor = [a / b for a, b in zip(sizes, size0, strict=True)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"source {address}: its levels are not described: {error!r}") from error
    spacing = tuple(p * f for p, f in zip(native.spacing_um, factor, strict=True))
    return Grid(shape, spacing, _origin(native.spacing_um, factor)), cuboid


def _zyx(numbers: Any, kind: type) -> tuple[Any, ...]:
    x, y, z = numbers
    return kind(z), kind(y), kind(x)


def _origin(spacing: Um, factor: list[float]) -> Um:
    """Return the centre of the first voxel of a coarser level.

    In the plane voxels are averaged, so the centre moves; of planes the first of each two is kept.
    """
    return 0.0, *(p * (f - 1) / 2 for p, f in zip(spacing[1:], factor[1:], strict=True))  # type: ignore[return-value]
