"""Workers on hosts that are reached by ssh: here, this host, through a real sshd."""

import sys

import pytest

from tests.clusters import HOST, OUR, sshd
from thc_dask.cluster import running
from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError


@pytest.fixture(scope="module")
def login(tmp_path_factory):
    """What a client needs to log in here."""
    with sshd(tmp_path_factory.mktemp("sshd")) as options:
        yield options


@pytest.fixture
def python(tmp_path):
    """A Python that finds what is tested: a login has an environment of its own."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={OUR["PYTHONPATH"]} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def hosts(login, python):
    scheduler = {"host": HOST, "dashboard_address": f"{HOST}:0"}
    return Settings(
        "ssh:here,here", "ssh", hosts=(HOST, HOST), options={
            "connect_options": login, "remote_python": python, "scheduler_options": scheduler,
            "worker_options": {"host": HOST},
        },
    )  # fmt: skip


def test_hosts_make_the_same_bytes(login, python, build, expected, tmp_path):
    with running(hosts(login, python)) as client:
        client.wait_for_workers(2)
        assert build(tmp_path / "v.ome.zarr") == expected[1]


def test_a_key_that_is_not_known_is_one_error(login, python, tmp_path):
    import asyncssh

    other = tmp_path / "other_key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(other))
    with (
        pytest.raises(FailureError, match=r"cluster ssh:here,here: .*Permission denied"),
        running(hosts(login | {"client_keys": [str(other)]}, python)),
    ):
        pass
