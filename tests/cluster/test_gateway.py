"""Workers that a real Dask gateway starts, on this host."""

import sys
import urllib.request
from contextlib import suppress

import pytest

from tests.clusters import HOST, OUR, process, until
from tests.object_storage import free_ports, program
from thc_dask.cluster import running
from thc_dask.cluster.settings import Settings
from thc_dask.errors import FailureError

SERVER = """\
c.DaskGateway.address = "{host}:{ports[0]}"
c.Proxy.address = "{host}:{ports[1]}"
c.Proxy.tcp_address = "{host}:{ports[2]}"
c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
c.UnsafeLocalBackend.clusters_directory = "{top}/clusters"
c.UnsafeLocalBackend.inherited_environment = ["PATH", "PYTHONPATH"]
c.ClusterConfig.scheduler_cmd = ["{python}", "-m", "distributed.cli.dask_scheduler"]
c.ClusterConfig.worker_cmd = ["{python}", "-m", "distributed.cli.dask_worker"]
c.ClusterConfig.worker_memory = "1 G"
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    """The addresses of a gateway and of its proxy."""
    server = program("dask-gateway-server")
    top, ports = tmp_path_factory.mktemp("gateway"), free_ports(3)
    (top / "clusters").mkdir()
    config = top / "config.py"
    config.write_text(SERVER.format(host=HOST, ports=ports, top=top, python=sys.executable))
    address = f"http://{HOST}:{ports[1]}"

    def healthy():
        with suppress(OSError), urllib.request.urlopen(f"{address}/api/health") as answer:
            return answer.status == 200

    with process(server, "-f", config, log=top / "server.log", env=OUR):
        until(healthy)
        yield address, f"tcp://{HOST}:{ports[2]}"


def test_a_gateway_makes_the_same_bytes(gateway, build, expected, tmp_path):
    address, proxy = gateway
    user = {"gateway.auth.type": "basic", "gateway.auth.kwargs": {"username": "me"}}
    settings = Settings(
        "gateway:2", "gateway", address=address, workers=2, options={"proxy_address": proxy},
        dask=user,
    )  # fmt: skip
    with running(settings) as client:
        client.wait_for_workers(2)
        assert client.scheduler.address.startswith("gateway://")
        assert build(tmp_path / "v.ome.zarr") == expected[1]


def test_no_gateway_is_one_error():
    [port] = free_ports(1)
    settings = Settings("gateway", "gateway", address=f"http://{HOST}:{port}")
    with (
        pytest.raises(FailureError, match=rf"gateway http://{HOST}:{port}: .*see that it runs"),
        running(settings),
    ):
        pass
