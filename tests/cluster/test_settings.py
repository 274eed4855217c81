"""What users may write for a cluster, and what is said of what is wrong."""

import sys
import warnings

import pytest
import yaml

from thc_dask.cluster import profiles as files
from thc_dask.cluster import running, settings_of, shown
from thc_dask.cluster.settings import JOBS, KINDS, PROFILE_KEYS, Settings, Tls
from thc_dask.errors import ExistsError, RequestError


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("threads", {"kind": "threads"}),
        ("local", {"kind": "local", "workers": None}),
        ("local:3", {"kind": "local", "workers": 3}),
        ("tcp://10.0.0.1:8786", {"kind": "scheduler", "address": "tcp://10.0.0.1:8786"}),
        ("tls://[::1]:8786/", {"kind": "scheduler", "address": "tls://[::1]:8786"}),
        ("scheduler-file:/a/s.json", {"kind": "scheduler-file", "address": "/a/s.json"}),
        ("ssh:a,b", {"kind": "ssh", "hosts": ("a", "b")}),
        *((f"{kind}:4", {"kind": kind, "workers": 4}) for kind in JOBS),
        ("kubernetes:4", {"kind": "kubernetes", "workers": 4}),
        ("gateway", {"kind": "gateway", "workers": None}),
    ],
)
def test_specs(profiles, spec, wanted):
    found = settings_of(spec)
    assert {key: getattr(found, key) for key in wanted} == wanted
    assert found.spec == spec


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("slrm", "cluster 'slrm': give threads, local[:N], "),
        ("slrm", "thc cluster init makes a file of them"),
        ("local:0", "cluster 'local:0': give the number of workers: local:4"),
        ("slurm:many", "give the number of workers: slurm:4"),
        ("threads:2", "threads are as many as there are cores"),
        ("tcp://10.0.0.1", "write host and port: tcp://10.0.0.1:8786"),
        ("ssh", "ssh:HOST,HOST"),
        ("scheduler-file:", "scheduler-file:PATH"),
        ("", "cluster '': give threads"),
    ],
)
def test_wrong_specs(profiles, spec, said):
    with pytest.raises(RequestError) as raised:
        settings_of(spec)
    assert said in str(raised.value)


PROFILES = """\
thc_dask:
  clusters:
    big: {kind: slurm, workers: 8, threads: 2, memory: 3GiB, per_job: 2, lifetime: 55m,
          stagger: 5m, wait: 1h, tls: false, options: {queue: long}, dask: {a.b: 1}}
    grows: {kind: local, minimum: 0, maximum: 9}
    far: {kind: scheduler, address: "tls://h:1", tls: {ca: ~/ca, cert: c, key: k}}
"""


def test_profiles(profiles, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = profiles(PROFILES)
    assert settings_of("big") == Settings(
        "big", "slurm", workers=8, threads=2, memory_bytes=3 * 2**30, per_job=2, lifetime_s=3300,
        stagger_s=300, wait_s=3600, tls=False, options={"queue": "long"}, dask={"a.b": 1},
        source=str(file),
    )  # fmt: skip
    assert settings_of("big:3").workers == 3
    assert (settings_of("grows").minimum, settings_of("grows").maximum) == (0, 9)
    assert settings_of("grows:2") == Settings("grows:2", "local", workers=2, source=str(file))
    assert settings_of("far").tls == Tls(f"{tmp_path}/ca", "c", "k")
    with pytest.raises(RequestError, match=r"or a profile big, grows, far$"):
        settings_of("small")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{kind: slrm}", "p.kind is 'slrm'; known: threads, local, "),
        ("{workers: 3}", "p.kind is None; known: "),
        ("{kind: local, treads: 2}", "p.treads is unknown; known: kind, address, "),
        ("{kind: local, workers: 0}", "p.workers is 0; write a whole number from 1 on"),
        ("{kind: local, workers: true}", "p.workers is True; write a whole number"),
        ("{kind: local, threads: two}", "p.threads is 'two'; write a whole number"),
        ("{kind: local, memory: lots}", "p.memory is 'lots'; write it like 4GiB"),
        ("{kind: local, lifetime: [1]}", "p.lifetime is [1]; write it like 60s or 55m"),
        ("{kind: local, options: 3}", "p.options is 3; write a mapping"),
        ("{kind: local, minimum: 2}", "p.maximum and minimum go together"),
        ("{kind: local, minimum: 2, maximum: 1}", "p.maximum and minimum go together"),
        ("{kind: ssh}", "p.hosts is missing; write a list: [host1, host2]"),
        ("{kind: ssh, hosts: a}", "p.hosts is 'a'; write a list"),
        ("{kind: scheduler}", "p.address is missing"),
        ("{kind: scheduler, address: h}", "p.address is 'h'; write tcp://HOST:PORT"),
        ("{kind: local, tls: {ca: a}}", "p.tls is true, false, or {ca: FILE"),
        ("local", "p is no mapping with a kind"),
    ],
)
def test_wrong_profiles_name_file_and_key(profiles, values, said):
    file = profiles(f"thc_dask: {{clusters: {{p: {values}}}}}")
    with pytest.raises(RequestError) as raised:
        settings_of("p")
    assert str(raised.value).startswith(f"{file}: clusters.p")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("thc_dask:\n  clusters: {a: [}\n", ", line 2: "),
        ("- a\n", ": thc_dask is to be in a mapping"),
        ("thc_dask: 3\n", ": clusters is to be in a mapping"),
        ("thc_dask: {clusters: [a]}\n", ": thc_dask.clusters is to be a mapping of names"),
    ],
)
def test_a_file_that_is_wrong_is_named(profiles, text, said):
    file = profiles(text)
    with pytest.raises(RequestError) as raised:
        settings_of("a")
    assert str(raised.value).startswith(f"{file}{said}")


def test_a_file_without_profiles_is_none(profiles):
    for text in ("", "thc_dask:\n", "other: 1\n"):
        profiles(text)
        assert files.read() == {}


def test_the_file_that_is_shipped_is_copied_once_and_right(profiles, tmp_path):
    path = files.init()
    assert path == tmp_path / "settings" / "thc_dask.yaml"
    known = files.read()
    assert sorted({values["kind"] for _, values in known.values()}) == [
        "gateway", "kubernetes", "local", "scheduler", "slurm", "ssh",
    ]  # fmt: skip
    assert [settings_of(name).kind in KINDS for name in known] == [True] * len(known)
    explained = path.read_text().partition("thc_dask:")[0]
    assert [key for key in PROFILE_KEYS if f"#   {key} " not in explained] == []
    with pytest.raises(ExistsError, match="exists; change it, or move it away first"):
        files.init()


# ---- what would be started ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("slurm", ["#SBATCH --cpus-per-task=4", "#SBATCH --mem=6G", "#SBATCH -p long"]),
        ("pbs", ["#PBS -q long", "#PBS -l select=1:ncpus=4:mem=6144MB"]),
        ("lsf", ["#BSUB -q long", "#BSUB -n 4"]),
        ("sge", ["#$ -q long"]),
        ("oar", ["#OAR -q long", "#OAR -l /nodes=1/core=4,walltime=01:00:00"]),
        ("moab", ["#PBS -q long", "#PBS -l select=1:ncpus=4:mem=6144MB"]),
    ],
)
def test_scripts_of_jobs(profiles, kind, lines):
    profiles(
        f"thc_dask: {{clusters: {{p: {{kind: {kind}, threads: 2, per_job: 2, memory: 3GiB, "
        "options: {queue: long, walltime: '01:00:00'}}}}"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OAR Job memory", UserWarning)  # said to who uses OAR
        script = shown("p")
    assert [line for line in lines if line not in script.splitlines()] == []
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in script
    command = script.splitlines()[-1]
    for part in ("tls://SCHEDULER:PORT", "--nthreads 2 ", "--memory-limit 3.00GiB ",
                 "--nworkers 2 ", "--lifetime 3240s --lifetime-stagger 180s", "--nanny",
                 "--tls-cert /"):  # fmt: skip
        assert part in command, part


def test_htcondor_takes_other_options(profiles):
    profiles("thc_dask: {clusters: {p: {kind: htcondor, tls: false, options: {disk: 1GB}}}}")
    script = shown("p")
    assert "MY.DaskWorkerDisk = 1000000000" in script
    assert "tcp://SCHEDULER:PORT" in script


def test_an_option_that_is_unknown_is_named(profiles):
    file = profiles("thc_dask: {clusters: {p: {kind: slurm, options: {queu: long}}}}")
    with pytest.raises(RequestError) as raised:
        shown("p")
    assert str(raised.value).startswith(f"{file}: options of SLURMCluster: ")
    assert "queu" in str(raised.value)


def test_the_resource_of_pods(profiles):
    profiles(
        "thc_dask: {clusters: {p: {kind: kubernetes, workers: 3, threads: 2, memory: 3GiB, "
        "options: {image: 'lab/thc:1', env: {A: b}}}}}"
    )
    made = yaml.safe_load(shown("p"))
    assert (made["kind"], made["spec"]["worker"]["replicas"]) == ("DaskCluster", 3)
    [container] = made["spec"]["worker"]["spec"]["containers"]
    assert container["image"] == "lab/thc:1"
    assert container["args"][:6] == [
        "dask", "worker", "--nthreads", "2", "--memory-limit", str(3 * 2**30),
    ]  # fmt: skip
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "3072Mi"}
    env = {each["name"]: each["value"] for each in container["env"]}
    assert (env["A"], env["DASK_DISTRIBUTED__WORKER__MEMORY__SPILL"]) == ("b", "False")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("threads", ["threads of this process"]),
        ("local:3", ["distributed.LocalCluster(n_workers=3", "host='127.0.0.1'"]),
        ("ssh:a,b", ["# on a, by ssh", "# on b, by ssh", "distributed.cli.dask_spec"]),
        ("tcp://h:1", ["the scheduler at tcp://h:1"]),
        ("scheduler-file:s.json", ["the scheduler that wrote s.json"]),
        ("gateway:2", ["a cluster of the gateway at", "2 workers"]),
    ],
)
def test_what_the_others_would_be(profiles, spec, parts):
    text = shown(spec)
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize(
    ("package", "spec", "extra"),
    [
        ("dask_jobqueue", "slurm", "cluster"),
        ("asyncssh", "ssh:a", "ssh"),
        ("dask_kubernetes", "kubernetes", "kubernetes"),
        ("dask_gateway", "gateway", "gateway"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(profiles, monkeypatch, package, spec, extra):
    monkeypatch.setitem(sys.modules, package, None)  # what Python itself does for what is not there
    with (
        pytest.raises(RequestError, match=rf"is not installed; pip install 'thc_dask\[{extra}\]'"),
        running(spec),
    ):
        pass
