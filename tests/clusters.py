"""Real parts of clusters on loopback, each private to its test: nothing of the machine is touched.

`.ci/run` installs them (Debian: slurm-wlm munge openssh-server iproute2 util-linux). Without one a
test is skipped and says why; in CI it fails.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.object_storage import free_ports

HOST = "127.0.0.1"
LIMIT_S = 60  # nothing here takes that long, on a busy machine either
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
OUR = {"PYTHONPATH": str(Path(__file__).parents[1])}  # workers import what tests import


def absent(reason):
    """Skip the test; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name, package):
    """Return the path of a program of the system."""
    path = shutil.which(name, path=PATH)
    return path or absent(f"{name} is not installed; apt-get install {package}")


def as_root(why):
    """Skip the test for who is not root."""
    if os.geteuid():
        absent(f"only root may {why}")


def until(what, limit_s=LIMIT_S):
    """Wait until ``what()`` is true and return it."""
    end_s = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < end_s, "it does not come to pass"
        time.sleep(0.02)
    return found


def says(*command, env=None):
    """Return what a command prints, None where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    return done.stdout if done.returncode == 0 else None


def same_image(found, expected):
    """Whether two stores hold the same shards of the image, by their files."""
    images = [{k: v for k, v in files.items() if "/image/c/" in k and k[0] in "0123456789"}
              for files in (found, expected)]  # fmt: skip
    return images[0] == images[1] and bool(images[0])


@contextmanager
def process(*command, log=None, env=None, sign=signal.SIGTERM):
    """Run a program meanwhile; it has ended when the context ends."""
    with ExitStack() as stack:
        out = stack.enter_context(open(log, "ab")) if log else subprocess.DEVNULL
        running = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=os.environ | {"PATH": PATH} | (env or {}), start_new_session=True,
        )  # fmt: skip
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(sign)
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextmanager
def dask_scheduler(folder, *options, prefix=(), host=HOST, port=0):
    """Run a scheduler; yield its process and the file it writes."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    command = [*prefix, sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host,
               "--port", port, "--no-dashboard", "--scheduler-file", file, *options]  # fmt: skip
    with process(*command, log=folder / "scheduler.log", env=OUR) as running:
        until(lambda: file.exists() and file.stat().st_size)
        yield running, file


@contextmanager
def dask_worker(folder, file, *options, prefix=(), host=HOST, name="w"):
    """Run a worker of one thread, with its nanny; yield its process."""
    command = [*prefix, sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file",
               file, "--host", host, "--nthreads", 1, "--no-dashboard", "--name", name,
               "--local-directory", folder / "local", *options]  # fmt: skip
    with process(*command, log=folder / f"{name}.log", env=OUR) as running:
        yield running


# ---- Slurm --------------------------------------------------------------------------------

SLURM = """\
ClusterName=thc
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={top}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
MpiDefault=none
ReturnToService=2
KillWait=5
MailProg=/bin/true
SlurmdParameters=config_overrides
StateSaveLocation={top}/state
SlurmdSpoolDir={top}/spool
SlurmctldPidFile={top}/slurmctld.pid
SlurmdPidFile={top}/slurmd.pid
SlurmctldLogFile={top}/slurmctld.log
SlurmdLogFile={top}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 Boards=1 SocketsPerBoard=4 CoresPerSocket=1 \
ThreadsPerCore=1 RealMemory=8000
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm(top):
    """Run Slurm on one node, with a munge of its own; yield the environment of its commands."""
    as_root("start Slurm")
    munged, controller, daemon = (
        program(name, "slurm-wlm munge") for name in ("munged", "slurmctld", "slurmd")
    )
    for name in ("state", "spool"):
        (top / name).mkdir()
    key, conf, sock = top / "munge.key", top / "slurm.conf", top / "munge.socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    conf.write_text(SLURM.format(host=host, ports=free_ports(2), top=top))
    env = {"SLURM_CONF": str(conf)} | OUR
    full = os.environ | env
    munge = [munged, "--foreground", "--force", f"--socket={sock}", f"--key-file={key}",
             f"--pid-file={top}/munge.pid", f"--log-file={top}/munge.log",
             f"--seed-file={top}/munge.seed", "--num-threads=2"]  # fmt: skip
    with process(*munge, log=top / "munge.out"):
        until(lambda: says("munge", "-n", "-S", str(sock)))
        with process(controller, "-D", log=top / "slurmctld.out", env=env):
            until(lambda: "is UP" in (says("scontrol", "ping", env=full) or ""))
            with process(daemon, "-D", log=top / "slurmd.out", env=env):
                until(lambda: (says("sinfo", "-h", "-o", "%T", env=full) or "").strip() == "idle")
                yield env


# ---- ssh ----------------------------------------------------------------------------------

SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {top}/host_key
AuthorizedKeysFile {top}/my_key.pub
PidFile {top}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""


@contextmanager
def sshd(top):
    """Run a server of ssh with keys of its own; yield what a client needs to connect."""
    as_root("start sshd here")
    server, keygen = program("sshd", "openssh-server"), program("ssh-keygen", "openssh-client")
    for name in ("host_key", "my_key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", top / name], check=True)
    [port] = free_ports(1)
    (top / "sshd_config").write_text(SSHD.format(port=port, top=top))
    Path("/run/sshd").mkdir(exist_ok=True)
    with process(server, "-D", "-e", "-f", top / "sshd_config", log=top / "sshd.log"):
        until(lambda: _listens(port))
        yield {
            "port": port, "username": getpass.getuser(), "client_keys": [str(top / "my_key")],
            "known_hosts": None, "config": None, "agent_path": None,
        }  # fmt: skip


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


# ---- networks -----------------------------------------------------------------------------


@contextmanager
def two_networks():
    """Make two network namespaces that reach one another; yield names, addresses and the link."""
    as_root("make network namespaces")
    ip = program("ip", "iproute2")
    tag = f"{os.getpid() % 100_000}"
    names, links = [f"thc{tag}{x}" for x in "ab"], [f"v{tag}{x}" for x in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]

    def call(*command, must=True):
        done = subprocess.run([ip, *command], capture_output=True, text=True)
        if must and done.returncode:
            absent(f"ip {' '.join(command)}: {done.stderr.strip()}")

    try:
        for name in names:
            call("netns", "add", name)
        call("link", "add", links[0], "netns", names[0], "type", "veth", "peer", "name", links[1],
             "netns", names[1])  # fmt: skip
        for name, link, address in zip(names, links, addresses, strict=True):
            call("-n", name, "addr", "add", f"{address}/24", "dev", link)
            call("-n", name, "link", "set", "lo", "up")
            call("-n", name, "link", "set", link, "up")
        yield [[ip, "netns", "exec", n] for n in names], addresses, [
            ip, "-n", names[1], "link", "set", links[1],
        ]  # fmt: skip
    finally:
        for name in names:
            call("netns", "del", name, must=False)
