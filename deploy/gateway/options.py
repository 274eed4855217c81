"""What users of a Dask gateway may choose, and how much of it.

Part of the server's configuration, which calls it with ``c``:
``helm upgrade … --set-file gateway.extraConfig.thc=deploy/gateway/options.py``, or
``dask-gateway-server -f deploy/gateway/options.py``.
"""

from dask_gateway_server.options import Float, Integer, Options, String

IMAGE = "registry.example.org/thc-dask:0.1.0"


def sizes(options):
    """Return the settings of a cluster for what a user has chosen."""
    repository = IMAGE.rpartition(":")[0]
    if options.image.rpartition(":")[0] != repository:
        raise ValueError(f"image {options.image}: choose a version of {repository}")
    return {
        "image": options.image,
        "worker_cores": options.worker_cores,
        "worker_memory": int(options.worker_memory * 2**30),
        "environment": {"AWS_REGION": options.region} if options.region else {},
    }


c = get_config()  # noqa: F821 - the server's loader defines it
c.Backend.cluster_options = Options(
    Integer("worker_cores", 1, min=1, max=8, label="Cores of a worker"),
    Float("worker_memory", 4, min=2, max=64, label="Memory of a worker (GiB)"),
    String("image", IMAGE, label="Image"),
    String("region", "", label="Region of the bucket"),
    handler=sizes,
)
c.ClusterConfig.scheduler_cmd = ["dask", "scheduler"]
c.ClusterConfig.worker_cmd = ["dask", "worker"]
c.ClusterConfig.scheduler_cores = 1
c.ClusterConfig.scheduler_memory = "4 G"
c.ClusterConfig.cluster_max_workers = 256
c.ClusterConfig.cluster_max_cores = 512
c.ClusterConfig.cluster_max_memory = "2 T"
# Who forgets to close a cluster pays for half an hour of it.
c.ClusterConfig.idle_timeout = 1800
