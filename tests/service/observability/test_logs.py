"""What stands in the log, for machines and for people."""

import asyncio
import json
import logging
import socket
import subprocess
import sys

import httpx
import pytest

from aaserve.service.http.observation import UNLOGGED, Observer
from aaserve.service.observability.logs import RefusalLog, configure_logging
from aaserve.service.observability.metrics import Metrics
from aaserve.service.observability.request_record import Record
from aaserve.service.settings import LogFormat, LoggedRequests
from tests.helpers import CONSOLE, EXAMPLES, REPOSITORY, ROOT, RunningService, running_service, wait_until
from tests.virtual_time import VirtualLoop, run_in_virtual_time

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def ask(service: RunningService, request_id: str, content: bytes = JPEG) -> httpx.Response:
    headers = {"X-Request-ID": request_id, "Content-Type": "image/jpeg"}
    return service.client.post("/classify", content=content, headers=headers)


def test_json_has_one_line_a_request_with_all_that_is_known_of_it() -> None:
    with running_service("--log-format", "json") as service:
        ask(service, "good")
        ask(service, "bad", JPEG[:100])
        for path in sorted(UNLOGGED):
            assert service.client.get(path).status_code == 200
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


def test_requests_are_logged_as_the_setting_says() -> None:
    with running_service("--log-requests", "errors") as service:
        ask(service, "good")
        ask(service, "bad", JPEG[:100])
        service.stop()
    assert [word for word in ("ready", "good", "bad") if any(word in line for line in service.log)] == ["ready", "bad"]


@pytest.mark.parametrize(
    ("logged", "expected"), [("all", [200, 404, 500, 499]), ("errors", [404, 500, 499]), ("none", [])]
)
def test_each_choice_of_logged_requests(
    logged: LoggedRequests, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer(Metrics(), logged)
    with caplog.at_level("INFO"):
        for status in (200, 404, 500, 499):
            observer.ended(Record("id", status=status), "POST", "/classify")
    assert [record.request["status"] for record in caplog.records] == expected


def test_lines_below_the_log_level_are_not_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # On all addresses without keys it warns; that it listens and is ready are lines of the level info.
    command = [sys.executable, "-m", "service", "--host", "0.0.0.0", "--port", str(port), "--log-level", "warning"]
    command += ["--repository", str(REPOSITORY), *CONSOLE]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: is_ready(port))
        headers = {"Content-Type": "image/jpeg"}
        httpx.post(f"http://127.0.0.1:{port}/classify", content=JPEG, headers=headers, timeout=60)
        process.terminate()
        [line] = [line for line in process.stderr.read().splitlines() if "not_ready" not in line]  # as it asks so often
    assert "WARNING aaserve no api_keys_file is set" in line


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_console_has_one_readable_line_a_request() -> None:
    with running_service("--log-format", "console") as service:
        ask(service, "for-people")
        service.stop()
    [line] = [line for line in service.log if "for-people" in line]
    assert "POST /classify 200" in line
    assert "aa-cifar100/1" in line
    assert "inference" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_log_line_is_long_for_any_client_input_or_error(
    log_format: LogFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.root.handlers.clear()
    try:
        writer = configure_logging(log_format, "info")
        Observer(Metrics(), "all").ended(Record("id", status=404), "M" * 10**6, "/" + "\N{GRINNING FACE}" * 10**6)
        try:
            raise ValueError("x" * 10**6)
        except ValueError as error:
            logging.getLogger("aaserve").exception("because of %s", error)
        writer.close()
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert max(map(len, lines)) < 30_000
    assert "characters …" in lines[0] or "characters \\u2026" in lines[0]


@pytest.mark.parametrize("given", ["a" * 200, "with space", "", "ünïcode"])
def test_a_request_id_that_could_break_a_log_is_replaced(service: RunningService, given: str) -> None:
    answer = service.client.get("/health/live", headers=[(b"X-Request-ID", given.encode())])
    assert answer.headers["x-request-id"] != given
    assert answer.headers["x-request-id"].isalnum()


def test_refusals_are_summed_up_every_second_and_the_last_ones_are_not_kept_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(_: VirtualLoop) -> None:
        refusals = RefusalLog()
        for _ in range(6):
            refusals.add("queue_full")
            await asyncio.sleep(0.25)
        await asyncio.sleep(10)
        refusals.add("draining")
        await asyncio.sleep(0.1)
        refusals.add("draining")
        refusals.close()

    run_in_virtual_time(scenario)
    assert [record.getMessage() for record in caplog.records] == [
        "requests refused since 1 s ago: queue_full 4",
        "requests refused since 1 s ago: queue_full 2",
        "requests refused since 10 s ago: draining 1",
        "requests refused since 0 s ago: draining 1",
    ]
