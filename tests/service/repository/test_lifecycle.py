"""Start, readiness, overload, leaving callers and SIGTERM, all with the real process."""

import concurrent.futures
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import (
    EXAMPLES,
    REPOSITORY,
    ROOT,
    RunningService,
    held_service,
    start_that_fails,
    wait_until,
)
from tests.service.repository.serving import serving

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that may be damaged."""
    return Path(shutil.copytree(REPOSITORY, tmp_path / "model_repository"))


def damage_model(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = {
    "one bit of the model": (damage_model, "model.onnx: expected sha256"),
    "no model": (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: expected a plain file, found none"),
    "no manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        "manifest.json: expected a plain file, found none",
    ),
    "half a manifest": (lambda folder: (folder / "manifest.json").write_text('{"name":'), "manifest.json: expected"),
    "no preprocessing": (lambda folder: edit_manifest(folder, preprocessing=None), "expected a valid preprocessing"),
    "a label too few": (lambda folder: edit_manifest(folder, labels=["a"]), "expected 100 labels"),
    "another name": (lambda folder: edit_manifest(folder, name="other"), "found other/1"),
    "an unknown field": (lambda folder: edit_manifest(folder, extra=1), "expected a valid extra"),
    "another input name": (
        lambda folder: edit_manifest(
            folder, input={"name": "x", "dtype": "float32", "layout": "NCHW", "shape": [3, 32, 32]}
        ),
        "expected the input",
    ),
    "another attention map": (
        lambda folder: edit_manifest(
            folder,
            attention=[
                {"layer": "x", "output": "attention.x", "dtype": "float32", "num_heads": 4, "grid": [8, 8]},
            ],
        ),
        "expected the output ('logits', 'float32', (100,)), ('attention.x'",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_bundle_fails_the_start_for_a_reason_of_one_line(repository: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(repository / "aa-cifar100" / "1")
    with serving(repository) as (_, app):
        failure = app.state.lifecycle.failure
    assert message in failure
    assert str(repository) in failure
    assert "\n" not in failure


def test_a_start_that_fails_ends_the_process_with_that_line(repository: Path) -> None:
    damage, message = next(iter(DAMAGES.values()))
    damage(repository / "aa-cifar100" / "1")
    status, stderr = start_that_fails(repository=repository)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (1, 1)
    assert message in errors[0]
    assert "Traceback" not in stderr


def test_an_empty_or_missing_repository_stops_the_start(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        status, stderr = start_that_fails(repository=folder)
        assert status == 1
        assert stderr.startswith(f"error: --repository: {folder}: expected ")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_was_asked_for_and_is_not_there_stops_the_start(provider: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this installation has the GPU providers")
    status, stderr = start_that_fails("--provider", provider)
    assert status == 1
    wanted = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[provider]
    assert f"error: provider: expected {wanted}, found only" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--max-batch-size", "0"], {}, "error: --max-batch-size: "),
        (["--port", "abc"], {}, "error: --port: "),
        ([], {"AASERVE_PROVIDER": "tpu"}, "error: AASERVE_PROVIDER: "),
    ],
    ids=["out of bounds", "not a number", "from the environment"],
)
def test_a_bad_setting_stops_the_start_and_is_named(options: list, environment: dict, message: str) -> None:
    status, stderr = start_that_fails(*options, **environment)
    assert status != 0
    assert message in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


def test_the_service_never_loads_torch_or_the_exporter() -> None:
    script = (
        "import sys, service.__main__, service.http.app; "
        "print([name for name in ('torch', 'onnx', 'models', 'export', 'training') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_ready_and_live_once_started(service: RunningService) -> None:
    assert service.client.get("/health/live").json() == {"state": "ready"}
    assert service.client.get("/health/ready").json() == {"state": "ready"}


def test_metrics_report_requests_stages_batches_and_the_queue(service: RunningService) -> None:
    answered = {"endpoint": "/classify", "model": "aa-cifar100", "code": "200"}
    before = service.metric("aaserve_requests_total", **answered)
    service.classify(JPEG)
    assert service.metric("aaserve_requests_total", **answered) == before + 1
    assert service.metric("aaserve_request_duration_seconds_count", endpoint="/classify", model="aa-cifar100") > before
    for stage in ("receive", "decode", "queue", "inference"):
        assert service.metric("aaserve_stage_duration_seconds_count", stage=stage, model="aa-cifar100") > 0
    assert service.metric("aaserve_batch_size_count", model="aa-cifar100") > 0
    assert service.metric("aaserve_queue_capacity", model="aa-cifar100") == 128
    assert service.metric("aaserve_queue_depth", model="aa-cifar100") == 0
    assert service.metric("aaserve_model_ready", model="aa-cifar100", version="1") == 1
    assert service.metric("aaserve_model_info", provider="CPUExecutionProvider") == 1
    assert service.metric("aaserve_images_total", format="jpeg", outcome="decoded") > 0
    service.client.get("/no/such/path")
    assert service.metric("aaserve_requests_total", endpoint="other", code="404") > 0


def test_a_deadline_that_passes_gets_504() -> None:
    with held_service() as held:
        response = held.client.post(
            "/classify", content=JPEG, headers={"X-Request-Timeout-Ms": "50", "Content-Type": "image/jpeg"}
        )
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        assert held.metric("aaserve_queue_depth") == 0


def test_a_full_queue_refuses_with_429_and_retry_after_before_a_body_is_read() -> None:
    with held_service("--max-queue-size", "1", seconds=4) as held, concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(held.classify, JPEG)
        wait_until(lambda: held.metric("aaserve_queue_depth") == 1)
        refused = held.classify(JPEG)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        with socket.create_connection((held.client.base_url.host, held.client.base_url.port), timeout=60) as another:
            another.sendall(
                b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"
            )
            answer = another.recv(10_000).decode()  # though only the head was sent
        assert answer.startswith("HTTP/1.1 429 ")
        assert "retry-after: 1\r\n" in answer.lower()
        assert held.metric("aaserve_rejected_total", reason="queue_full") == 2
        assert held.metric("aaserve_requests_total", endpoint="/classify", code="429") == 2
        assert waiting.result().status_code == 200


@pytest.mark.parametrize("more", [0, 200_000])  # a large body that is waited for stops the reading of the socket
def test_a_caller_who_leaves_does_not_disturb_its_batch_mates(more: int) -> None:
    with held_service("--max-batch-size", "3") as held, concurrent.futures.ThreadPoolExecutor() as threads:
        leaver = socket.create_connection((held.client.base_url.host, held.client.base_url.port))
        body = JPEG + bytes(more)
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        leaver.sendall(head.encode())
        wait_until(lambda: held.metric("aaserve_inflight_requests") == 1)
        leaver.sendall(body)
        mate = threads.submit(held.classify, JPEG)
        wait_until(lambda: held.metric("aaserve_queue_depth") == 2)
        leaver.close()
        wait_until(lambda: held.metric("aaserve_rejected_total", reason="disconnected") == 1)
        mates = [mate, threads.submit(held.classify, JPEG), threads.submit(held.classify, JPEG)]
        assert [mate.result().status_code for mate in mates] == [200, 200, 200]
        assert held.metric("aaserve_requests_total", endpoint="/classify", code="499") == 1
        assert held.metric("aaserve_batch_size_sum") == 3  # the leaver was never computed


def test_a_caller_who_leaves_while_sending_costs_nothing(service: RunningService) -> None:
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port)) as leaver:
        leaver.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 99\r\n\r\nab"
        )
    wait_until(lambda: service.metric("aaserve_requests_total", endpoint="/classify", code="499") >= 1)
    assert service.classify(JPEG).status_code == 200
    assert not [line for line in service.log if " ERROR aaserve " in line]


def refuses_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=60).close()
    except ConnectionError:
        return True
    return False


def test_sigterm_answers_accepted_requests_and_exits_0() -> None:
    with held_service("--max-batch-size", "4") as held, concurrent.futures.ThreadPoolExecutor() as threads:
        accepted = [threads.submit(held.classify, JPEG) for _ in range(3)]
        address = (held.client.base_url.host, held.client.base_url.port)
        with socket.create_connection(address, timeout=60) as sending:
            head = (
                f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n"
            )
            sending.sendall(head.encode() + JPEG[:-1])
            wait_until(lambda: held.metric("aaserve_queue_depth") == 3)
            wait_until(lambda: held.metric("aaserve_inflight_requests") == 4)
            held.process.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses_connections(*address))
            sending.sendall(JPEG[-1:])  # the batch is full
            assert sending.recv(100).startswith(b"HTTP/1.1 200 ")
        assert held.process.wait(60) == 0
        assert [request.result().status_code for request in accepted] == [200, 200, 200]


def test_nothing_polls_while_idle(service: RunningService) -> None:
    def ticks() -> int:
        fields = Path(f"/proc/{service.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    if not Path("/proc").is_dir():
        pytest.skip("needs Linux's /proc")
    service.classify(JPEG)
    time.sleep(0.5)  # ONNX Runtime's threads spin a moment after work
    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 10  # hundredths of a second: a twentieth of one core
