"""Addresses: ``bossdb://collection/experiment/channel?level=2``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from thc_dask.errors import RequestError

PREFIX = "bossdb://"


@dataclass(frozen=True)
class Address:
    """A channel at one level of resolution."""

    collection: str
    experiment: str
    channel: str
    level: int = 0
    """0 is the finest."""

    def __str__(self) -> str:
        level = f"?level={self.level}" if self.level else ""
        return f"{PREFIX}{self.collection}/{self.experiment}/{self.channel}{level}"


def parse_address(location: str, level: int | None = None) -> Address:
    """Return the channel that a location names; ``level`` wins over the one in the location.

    Raises
    ------
    RequestError
        It is no such address.

    Examples
    --------
    >>> parse_address("bossdb://prasad/prasad2020/image?level=2")
    Address(collection='prasad', experiment='prasad2020', channel='image', level=2)
    """
    path, _, query = location.partition("?")
    names = path.removeprefix(PREFIX).strip("/").split("/")
    option = re.fullmatch(r"level=(\d)", query)
    if (
        not path.startswith(PREFIX)
        or len(names) != 3
        or not all(re.fullmatch(r"[\w-]+", name) for name in names)
        or (query and option is None)
    ):
        raise RequestError(
            f"source {location}: write it as bossdb://collection/experiment/channel, perhaps with "
            "?level=2 for a coarser level, 0 to 9"
        )
    if level is None:
        level = int(option[1]) if option else 0
    if not 0 <= level <= 9:
        raise RequestError(f"source {location}: level {level}; bossDB has levels 0 to 9")
    collection, experiment, channel = names
    return Address(collection, experiment, channel, level)
