"""What stands in the log, for machines and for people."""

import json

import httpx
import pytest

from service.logs import RefusalLog
from tests.helpers import EXAMPLES, RunningService, running_service

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def ask(service: RunningService, request_id: str, content: bytes = JPEG) -> httpx.Response:
    headers = {"X-Request-ID": request_id, "Content-Type": "image/jpeg"}
    return service.client.post("/classify", content=content, headers=headers)


def test_json_has_one_line_a_request_with_all_that_is_known_of_it() -> None:
    with running_service("--log-format", "json") as service:
        ask(service, "good")
        ask(service, "bad", JPEG[:100])
        service.client.get("/health/live")
        service.client.get("/metrics")
        service.stop()
    lines = [json.loads(line) for line in service.log]  # every line is a document
    requests = {line["request_id"]: line for line in lines if line["message"] == "request"}
    assert set(requests) == {"good", "bad"}  # probes and scrapes are not logged
    good, bad = requests["good"], requests["bad"]
    assert (good["status"], good["outcome"], good["path"]) == (200, "ok", "/classify")
    assert (good["model"], good["version"], good["batch_size"]) == ("aa-cifar100", "1", 1)
    assert set(good["stages_ms"]) == {"receive", "decode", "queue", "inference", "respond"}
    assert all(0 <= milliseconds <= good["total_ms"] for milliseconds in good["stages_ms"].values())
    assert (bad["status"], bad["outcome"], bad["batch_size"]) == (400, "invalid_image", None)
    assert good["time"] < bad["time"]


def test_console_has_one_readable_line_a_request() -> None:
    with running_service("--log-format", "console") as service:
        ask(service, "for-people")
        service.stop()
    [line] = [line for line in service.log if "for-people" in line]
    assert "POST /classify 200" in line
    assert "aa-cifar100/1" in line
    assert "inference" in line


@pytest.mark.parametrize("given", ["a" * 200, "with space", "", "ünïcode"])
def test_a_request_id_that_could_break_a_log_is_replaced(service: RunningService, given: str) -> None:
    answer = service.client.get("/health/live", headers=[(b"X-Request-ID", given.encode())])
    assert answer.headers["x-request-id"] != given
    assert answer.headers["x-request-id"].isalnum()


def test_refusals_are_summed_up_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    refusals = RefusalLog(lambda: now)
    for _ in range(10):
        now += 0.25
        refusals.add("queue_full")
    assert [record.getMessage() for record in caplog.records] == ["requests refused since 1 s ago: queue_full 4"] * 2
