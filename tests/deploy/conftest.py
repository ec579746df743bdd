"""Fixtures for deployment tests."""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.harness.environments import is_made, make_environment
from tests.conftest import folder_of_all_workers
from tests.deploy.manifests import COMBINATIONS, KUBERNETES, Resource, built, composed
from tests.deploy.ray_cluster import RAYSERVICE, Cluster
from tests.extras import requirements_of
from tests.helpers import REPOSITORY, ROOT

HEAD = RAYSERVICE["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]


@pytest.fixture(scope="session")
def ray_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has what the service needs, and Ray."""
    requirements = tmp_path_factory.mktemp("ray") / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in requirements_of(["cpu", "ray"])))
    wanted = ROOT / ".venv-ray", requirements, ROOT / "constraints.txt"
    compiled = is_made(*wanted)
    try:
        python = make_environment(*wanted)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"Ray could not be installed: {(error.stderr or str(error)).strip().splitlines()[-1]}")
    if not compiled:  # else many processes would compile the same modules at once
        imports = "import deploy.ray.classify, deploy.ray.replica, ray.dashboard.dashboard, ray.scripts.scripts"
        subprocess.run([python, "-c", imports], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return python.parent


@pytest.fixture(scope="session")
def combinations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """What is built of each combination, and of the example of a canary."""
    folder = tmp_path_factory.mktemp("kubernetes")
    found = {name: composed(folder, *combination) for name, combination in COMBINATIONS.items()}
    return found | {"canary": built(KUBERNETES / "canary")}


def free_ports(*names: str) -> dict[str, int]:
    """Different ports that are free at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(names, ports, strict=True))


@pytest.fixture(scope="package")
def the_only_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """While two start at the same time on one machine, they take each other's ports."""
    with (folder_of_all_workers(tmp_path_factory, "ray") / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="package")
def cluster(ray_programs: Path, the_only_cluster: None) -> Iterator[Cluster]:
    """A head and a worker with one replica each, which `url` asks. The core of each node is for actors of Ray Data."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own folders are too long for the names of Ray's sockets
    ports = free_ports("gcs", "dashboard", "client", "stats", "metrics", "http")
    config = yaml.safe_load(RAYSERVICE["serveConfigV2"])
    config["proxy_location"] = "HeadOnly"  # both nodes have the same address
    config["http_options"] |= {"host": "127.0.0.1", "port": ports["http"]}
    [application] = config["applications"]
    application["args"]["metrics_port"] = 0
    application["runtime_env"]["env_vars"]["AASERVE_REPOSITORY"] = str(REPOSITORY)
    [replicas] = application["deployments"]
    replicas["ray_actor_options"]["num_cpus"] = 0
    replicas["num_replicas"] = 2
    del replicas["autoscaling_config"]
    environment = {each["name"]: each["value"] for each in HEAD["env"]} | {"AASERVE_REPOSITORY": str(REPOSITORY)}
    try:
        with Cluster(folder, environment, workers=1, ports=ports, ray=ray_programs / "ray") as cluster:
            cluster.deploy(config)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)
