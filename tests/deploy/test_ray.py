"""Ray Serve on two raylets of this machine, with the configuration that ships."""

import os
import signal
from collections.abc import Iterator

import httpx
import pytest
import yaml

from aaserve.service.settings import Settings
from tests.deploy.ray_cluster import RAYSERVICE, Cluster
from tests.helpers import EXAMPLES, ROOT, RunningService

SERVE = yaml.safe_load(RAYSERVICE["serveConfigV2"])
REPLICAS = SERVE["applications"][0]["deployments"][0]
ATTEMPTS = 5  # one after the other: HAProxy asks the replicas in turn until it notices that one is gone


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
    answered = []

    def is_answered() -> bool:
        try:
            return classify(client, picture).status_code == 200
        except httpx.TransportError:  # it was with the victim, or on a connection that HAProxy closed
            return False

    def replaced() -> bool:
        answered.append(any(is_answered() for _ in range(ATTEMPTS)))
        processes = {replica["pid"] for replica in cluster.replicas()}
        return len(processes) == 2 and survivor["pid"] in processes and victim["pid"] not in processes

    cluster.wait_for(replaced, "a new replica")
    assert all(answered)
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
