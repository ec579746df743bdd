"""A real Prometheus with our configuration scrapes the real service and answers what the dashboard asks."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.queries import DEPLOY, Query, dashboard_queries, recorded
from tests.helpers import EXAMPLES, RunningService

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus here: apt-get install prometheus")


def wait_for(what: Callable[[], Any], words: str) -> Any:
    """Ask again until there is an answer; Prometheus scrapes once a second here."""
    pause = threading.Event()
    for _ in range(300):
        try:
            if found := what():
                return found
        except httpx.TransportError:
            pass
        pause.wait(0.1)
    raise AssertionError(f"waited in vain for {words}")


@pytest.fixture(scope="module")
def prometheus(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus with deploy/prometheus/, its target and its intervals changed."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    target = service.client.base_url.netloc.decode()
    config, targets = re.subn(r"aaserve:8080", target, config)
    config, intervals = re.subn(r"_interval: 15s", "_interval: 1s", config)
    assert (targets, intervals) == (1, 2)
    (folder / "prometheus.yml").write_text(config)
    shutil.copytree(DEPLOY / "prometheus" / "rules", folder / "rules")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ],
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            # Until it is ready it answers 503, and not in JSON.
            wait_for(lambda: client.get(f"http://127.0.0.1:{port}/-/ready").is_success, "Prometheus")
            send_traffic(service)
            wait_for(lambda: ask(client, "aaserve_batch_size_count"), "a first scrape")
            send_traffic(service)  # again: a counter must be seen to rise
            wait_for(lambda: ask(client, "changes(aaserve_batch_size_count[1m]) > 0"), "a scrape after the traffic")
            yield client
    finally:
        process.terminate()
        process.wait(30)


def send_traffic(service: RunningService) -> None:
    """Pictures of two formats, a refusal, and something that is not there."""
    for _ in range(5):
        assert service.classify((EXAMPLES / "rocket.jpg").read_bytes()).status_code == 200
    assert service.classify(b"no picture").status_code == 415
    service.client.get("/nowhere")


def ask(client: httpx.Client, expr: str) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": expr}).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def in_grafana(query: Query) -> str:
    """The expression as Grafana sends it with all models chosen."""
    expr = query.expr.replace("$__rate_interval", "30s").replace("$model", ".*")
    assert "$" not in expr
    return expr


# The service of this test runs on the CPU and has no figures of a card.
# What a service on the CPU in fp32 has no figures of.
ELSEWHERE = ("aaserve_gpu_", "aaserve_lower_precision_")
ANSWERED = [query for query in dashboard_queries() if not any(name in query.expr for name in ELSEWHERE)]


@pytest.mark.parametrize("query", ANSWERED, ids=lambda query: query.where)
def test_every_panel_has_figures(prometheus: httpx.Client, query: Query) -> None:
    expr = in_grafana(query)
    found = wait_for(
        lambda: [sample for sample in ask(prometheus, expr) if sample["value"][1] != "NaN"], f"figures of {expr}"
    )
    assert found


@pytest.mark.parametrize("name", sorted(recorded()))
def test_every_recording_rule_has_figures(prometheus: httpx.Client, name: str) -> None:
    assert wait_for(lambda: [one for one in ask(prometheus, name) if one["value"][1] != "NaN"], name)


def test_every_rule_is_evaluated_and_no_alert_fires_at_a_healthy_service(prometheus: httpx.Client) -> None:
    def evaluated() -> list[dict[str, Any]]:
        groups = prometheus.get("/rules").json()["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else []

    found = wait_for(evaluated, "every rule")
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in found if rule.get("state") == "firing"] == []


def test_the_scrape_finds_nothing_it_cannot_read(prometheus: httpx.Client) -> None:
    [target] = prometheus.get("/targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert ask(prometheus, 'scrape_samples_scraped{job="aaserve"} < 1000')  # low cardinality
