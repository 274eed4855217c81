"""How many workers: so many, or as many as there is work for."""

from __future__ import annotations

from typing import Any

from thc_dask.cluster.settings import Settings

# Few items are in flight at a time, whatever waits behind them: a worker more is asked for as soon
# as those take longer than this, and the next look sees what was added then.
TARGET = "100ms"
QUIET = 30  # looks, a second each, that find a worker idle before it is let go


def scaled(cluster: Any, settings: Settings, n_kept: int | None = None) -> None:
    """Let the size of a cluster follow the work, if that was asked for.

    ``n_kept`` asks for so many again whenever some are lost: a cluster that is told its size once
    does not miss what is cancelled later.
    """
    if settings.maximum is not None:
        cluster.adapt(
            minimum=settings.minimum, maximum=settings.maximum, target_duration=TARGET,
            wait_count=QUIET,
        )  # fmt: skip
    elif n_kept is not None:
        cluster.adapt(minimum=n_kept, maximum=n_kept)
