"""What Dask says while a command runs: nothing, since errors are told in one line of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = ("distributed", "distributed.client", "dask_jobqueue", "dask_gateway", "asyncssh",
         "tornado.application", "asyncio")  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Dask logs to itself, in this process and those it starts; THC_DASK_LOGS=1 does not.

    Workers that are lost or started anew are its daily business.
    """
    if os.environ.get("THC_DASK_LOGS"):
        yield
        return
    import dask

    levels = {name: logging.getLogger(name).level for name in NAMES}
    # Read when the package is imported: here, if that is still to come, and in every worker.
    asked = dask.config.get("logging", None) or dict.fromkeys(NAMES, "critical")
    with dask.config.set({"logging": asked}):
        import distributed  # noqa: F401

        for name in NAMES:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
