"""Ray Serve on two raylets of this machine, with the configuration that ships."""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import yaml

from aaserve.service.settings import Settings
from tests.deploy.ray_cluster import Cluster
from tests.helpers import EXAMPLES, REPOSITORY, ROOT, RunningService

RAYSERVICE = yaml.safe_load((ROOT / "deploy" / "ray" / "rayservice.yaml").read_text())["spec"]
HEAD = RAYSERVICE["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
SERVE = yaml.safe_load(RAYSERVICE["serveConfigV2"])
REPLICAS = SERVE["applications"][0]["deployments"][0]


def free_ports(*names: str) -> dict[str, int]:
    """Different ports that are free at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(names, ports, strict=True))


@pytest.fixture(scope="module")
def ray(ray_programs: Path) -> Path:
    """The command `ray`, where it and the service are installed."""
    return ray_programs / "ray"


@pytest.fixture(scope="module")
def cluster(ray: Path) -> Iterator[Cluster]:
    """A head and a worker with one replica each; `url` is where they are asked."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own folders are too long for the names of Ray's sockets
    ports = free_ports("gcs", "dashboard", "client", "stats", "metrics", "http")
    config = yaml.safe_load(RAYSERVICE["serveConfigV2"])
    config["proxy_location"] = "HeadOnly"  # both nodes have the same address
    config["http_options"] |= {"host": "127.0.0.1", "port": ports["http"]}
    [application] = config["applications"]
    application["args"]["metrics_port"] = 0
    application["runtime_env"]["env_vars"]["AASERVE_REPOSITORY"] = str(REPOSITORY)
    [replicas] = application["deployments"]
    replicas["ray_actor_options"]["num_cpus"] = 1
    replicas["num_replicas"] = 2
    del replicas["autoscaling_config"]
    environment = {each["name"]: each["value"] for each in HEAD["env"]}
    try:
        with Cluster(folder, environment, workers=1, ports=ports, ray=ray) as cluster:
            cluster.deploy(config)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        yield client


def classify(client: httpx.Client, picture: bytes, **headers: str) -> httpx.Response:
    return client.post("/classify?top_k=100", content=picture, headers={"Content-Type": "image/jpeg", **headers})


def test_replicas_on_two_nodes_answer_as_a_single_process(
    cluster: Cluster, client: httpx.Client, service: RunningService
) -> None:
    assert len({replica["node_id"] for replica in cluster.replicas()}) == 2
    for example in sorted(EXAMPLES.glob("*.jpg")):
        expected = service.classify(example.read_bytes(), top_k=100).json()
        for _ in range(4):
            assert classify(client, example.read_bytes()).json() == expected


def test_errors_and_the_request_id_are_those_of_the_service(client: httpx.Client) -> None:
    answer = classify(client, b"no picture", **{"X-Request-ID": "order-66"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert answer.headers.get_list("X-Request-ID") == ["order-66"]
    assert answer.json()["request_id"] == "order-66"


def test_a_replica_that_was_killed_is_replaced_and_the_other_answers_meanwhile(
    cluster: Cluster, client: httpx.Client
) -> None:
    picture = (EXAMPLES / "rocket.jpg").read_bytes()
    victim, survivor = cluster.replicas()
    os.kill(victim["pid"], signal.SIGKILL)
    outcomes = []

    def replaced() -> bool:
        try:
            outcomes.append(classify(client, picture).status_code)
        except httpx.TransportError:  # it was with the victim, or on a connection that HAProxy closed
            outcomes.append(None)
        processes = {replica["pid"] for replica in cluster.replicas()}
        return len(processes) == 2 and survivor["pid"] in processes and victim["pid"] not in processes

    cluster.wait_for(replaced, "a new replica")
    assert all(200 in asked for asked in pairwise(outcomes))  # a second attempt is always answered
    assert classify(client, picture).status_code == 200


def test_the_replica_refuses_before_ray_lets_requests_wait() -> None:
    settings = Settings()
    assert REPLICAS["max_ongoing_requests"] > settings.max_queue_size + 2 * settings.max_batch_size
    timeout = int(SERVE["applications"][0]["runtime_env"]["env_vars"]["AASERVE_REQUEST_TIMEOUT_MS"]) / 1000
    assert SERVE["http_options"]["request_timeout_s"] > timeout
    assert REPLICAS["graceful_shutdown_timeout_s"] > timeout


def test_kuberay_gets_the_ray_that_is_pinned_and_the_port_that_is_scraped() -> None:
    cluster = RAYSERVICE["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().split()
    [workers] = cluster["workerGroupSpecs"]
    [container] = workers["template"]["spec"]["containers"]
    assert container["ports"] == [
        {"name": "aaserve-metrics", "containerPort": SERVE["applications"][0]["args"]["metrics_port"]}
    ]
    assert REPLICAS["max_replicas_per_node"] == 1
    assert REPLICAS["autoscaling_config"]["max_replicas"] == workers["maxReplicas"]
