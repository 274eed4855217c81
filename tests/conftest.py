"""What every test shares: fixtures that cost something, and settings of hypothesis."""

import contextlib

import dask
import fsspec
import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.assertions")

# Stores are slow beside what hypothesis expects, and a machine may be busy.
settings.register_profile(
    "thc_dask",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("thc_dask")


@pytest.fixture(autouse=True)
def _empty_memory():
    """Forget the stores a test left in memory."""
    yield
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def cluster():
    """A scheduler and two worker processes; nobody's default until a test asks for it."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            processes=True, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["threads", "synchronous", "processes", "cluster"])
def executor(request):
    """Everything inside runs on each scheduler in turn."""
    if request.param == "cluster":
        context = request.getfixturevalue("cluster").as_current()
    elif request.param == "threads":
        context = contextlib.nullcontext()
    else:
        context = dask.config.set(scheduler=request.param)
    with context:
        yield request.param
