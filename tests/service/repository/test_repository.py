"""Many models and versions, changed while they are served."""

import asyncio
import concurrent.futures
import hashlib
import json
import shutil
import signal
import socket
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import LoadFailed, StartFailed
from aaserve.service.http.keys import Keys
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.loader import VersionLoader
from aaserve.service.repository.repository import open_repository
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings
from tests.helpers import (
    EXAMPLES,
    REPOSITORY,
    RunningService,
    running_service,
    slow_body_service,
    start_that_fails,
    wait_until,
)
from tests.service.repository.serving import serving
from tests.toy_bundles import SIDE, picture, write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
OLD, NEW = ("a", "b", "c", "d"), ("A", "B", "C", "D")
KEY = "correct horse battery staple"
PICTURE = {"Content-Type": "application/octet-stream"}
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The shipped bundle, and fragile/1 and fragile/2, which say lower and upper case."""
    folder = Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))
    write_fragile_bundle(folder, version="1", labels=OLD)
    write_fragile_bundle(folder, version="2", labels=NEW)
    return folder


def ask(service: RunningService, red: int = 3, **params: str) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return service.client.post("/classify", params={"top_k": 1, **params}, content=picture(red), headers=headers)


def said(answer: httpx.Response) -> tuple[str, str]:
    """Version and best label."""
    assert answer.status_code == 200, answer.text
    return answer.json()["version"], answer.json()["predictions"][0]["label"]


def reload(service: RunningService, outcome: str = "loaded") -> None:
    """SIGHUP, and wait until it is done."""
    done = sum("aaserve reloaded" in line for line in service.log)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: sum("aaserve reloaded" in line for line in service.log) > done, 30)


def test_the_highest_version_is_the_default_and_the_only_one(repository: Path) -> None:
    with running_service(repository=repository) as service:
        assert said(ask(service, model="fragile")) == ("2", "D")
        assert ask(service, model="fragile", version="1").status_code == 404
        assert service.classify(JPEG, model="aa-cifar100").status_code == 200
        refused = service.classify(JPEG)
        assert (refused.status_code, refused.json()["code"]) == (404, "model_not_found")
        assert "aa-cifar100, fragile" in refused.json()["detail"]


@pytest.mark.parametrize(("policy", "served"), [('"all"', {"1", "2"}), ("[1]", {"1"}), ('"latest"', {"2"})])
def test_a_policy_says_which_versions_are_served(repository: Path, policy: str, served: set[str]) -> None:
    (repository / "fragile" / "serving.toml").write_text(f"versions = {policy}")
    with running_service(repository=repository) as service:
        answers = {version: ask(service, model="fragile", version=version) for version in ("1", "2")}
        assert {version for version, answer in answers.items() if answer.status_code == 200} == served
        assert said(ask(service, model="fragile"))[0] == max(served)


def test_settings_of_one_model_leave_the_others_alone(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text("max_queue_size = 5\nmax_batch_size = 2\ncpu_batch_ms = 0")
    with running_service("--cpu-batch-ms", "10000", repository=repository) as service:
        assert service.metric("aaserve_queue_capacity", model="fragile") == 5
        assert service.metric("aaserve_queue_capacity", model="aa-cifar100") == 128
        for model, rows in (("fragile", 1), ("aa-cifar100", 8)):
            config = service.client.get(f"/v2/models/{model}/config").json()
            assert config["dynamic_batching"]["preferred_batch_size"] == [rows]


def test_rows_that_wait_are_bounded_in_bytes_too(repository: Path) -> None:
    row_bytes = SIDE * SIDE * 3
    with running_service("--max-queue-bytes", str(3 * row_bytes), repository=repository) as service:
        assert service.metric("aaserve_queue_capacity", model="fragile") == 3
        assert service.metric("aaserve_queue_capacity", model="aa-cifar100") == 1
        assert service.client.get("/v2/models/fragile/config").json()["max_batch_size"] == 3
        files = [("image", ("a.png", picture(1)))]
        answers = [service.client.post("/classify/batch?model=fragile", files=files * count) for count in (3, 4)]
        assert [answer.status_code for answer in answers] == [200, 413]
        assert any("fragile: 3 rows may wait" in line for line in service.log)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("max_queue_size = 0", "max_queue_size: Input should be greater than or equal to 1, found 0"),
        ("max_queue = 5", "max_queue: Extra inputs are not permitted"),
        ("versions = [7]", "expected versions among 1, 2, found 7"),
        ("= =", "expected TOML"),
    ],
)
def test_a_model_that_cannot_be_served_leaves_the_others_alone(
    repository: Path, caplog: pytest.LogCaptureFixture, content: str, reason: str
) -> None:
    (repository / "fragile" / "serving.toml").write_text(content)
    with serving(repository) as (client, _):
        statuses = {
            model: client.post(f"/classify?model={model}", content=JPEG, headers=PICTURE).status_code
            for model in ("aa-cifar100", "fragile")
        }
        assert statuses == {"aa-cifar100": 200, "fragile": 404}
    assert [record for record in caplog.records if reason in record.message]
    with serving(repository, strict=True) as (_, app):
        assert reason in app.state.lifecycle.failure


def test_a_model_that_cannot_be_served_ends_a_strict_service(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text("versions = [7]")
    status, stderr = start_that_fails("--strict", repository=repository)
    assert status == 1
    assert "expected versions among 1, 2, found 7" in stderr.splitlines()[-1]


def test_a_new_version_is_served_after_sighup_and_rolled_back_by_key(repository: Path, keys: Path) -> None:
    shutil.rmtree(repository / "fragile" / "2")
    with running_service("--api-keys-file", str(keys), repository=repository, headers=AUTHORIZED) as service:
        assert said(ask(service, model="fragile")) == ("1", "d")
        write_fragile_bundle(repository, version="2", labels=NEW)
        reload(service)
        assert said(ask(service, model="fragile")) == ("2", "D")
        states = {row["version"]: row["state"] for row in service.client.get("/models/fragile").json()["versions"]}
        assert states == {"2": "ready", "1": "standby"}
        rolled_back = change(service, "rollback")
        assert rolled_back.status_code == 200
        reload(service)
        assert rolled_back.json()["versions"] == [
            {"version": "1", "task": "classification", "state": "ready"},
            {"version": "2", "task": "classification", "state": "standby"},
        ]
        assert said(ask(service, model="fragile")) == ("1", "d")
        assert change(service, "rollback").json()["versions"][0] == {
            "version": "2",
            "task": "classification",
            "state": "ready",
        }
        assert said(ask(service, model="fragile")) == ("2", "D")
        assert change(service, "unload").json() == {"name": "fragile", "versions": [], "failures": []}
        assert ask(service, model="fragile").status_code == 404
        assert service.metric("aaserve_model_ready", model="fragile") == 0
        reload(service)  # as for a new certificate
        assert ask(service, model="fragile").status_code == 404
        loaded = change(service, "load")
        assert (loaded.status_code, loaded.json()["versions"]) == (
            200,
            [{"version": "2", "task": "classification", "state": "ready"}],
        )
        assert said(ask(service, model="fragile")) == ("2", "D")


def test_a_damaged_new_version_changes_nothing(repository: Path, keys: Path) -> None:
    with running_service("--api-keys-file", str(keys), repository=repository, headers=AUTHORIZED) as service:
        write_fragile_bundle(repository, version="3", labels=OLD)
        (repository / "fragile" / "3" / "model.onnx").write_bytes(b"no model")
        reload(service)
        assert said(ask(service, model="fragile")) == ("2", "D")
        assert service.metric("aaserve_reloads_total", model="fragile", outcome="failed") == 1
        refused = change(service, "load")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert str(repository) not in refused.text
        described = service.client.get("/models/fragile").json()
        assert [version["state"] for version in described["versions"]] == ["ready"]
        [failure] = described["failures"]
        assert failure["version"] == "3"
        assert failure["reason"].startswith("fragile/3/model.onnx: expected sha256")
        assert said(ask(service, model="fragile")) == ("2", "D")


def test_a_model_whose_folder_vanished_is_unloaded(repository: Path) -> None:
    with running_service(repository=repository) as service:
        shutil.rmtree(repository / "fragile")
        reload(service)
        assert ask(service, model="fragile").status_code == 404
        assert service.classify(JPEG).status_code == 200


def test_fifty_reloads_under_load_lose_nothing_and_mix_nothing(repository: Path) -> None:
    """Version and labels always belong together; every answer is one of the two that were ever served."""
    stop = False
    answers: list[tuple[str, str]] = []

    def send(service: RunningService) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            while not stop:
                answer = client.post(
                    "/classify?model=fragile&top_k=1", content=picture(3), headers={"Content-Type": "image/png"}
                )
                answers.append(said(answer))

    with running_service(repository=repository) as service, concurrent.futures.ThreadPoolExecutor(32) as threads:
        clients = [threads.submit(send, service) for _ in range(32)]
        memory = []
        try:
            for round_ in range(50):
                if round_ % 2:
                    write_fragile_bundle(repository, version="2", labels=NEW)
                else:
                    shutil.rmtree(repository / "fragile" / "2")
                reload(service)
                memory.append(resident_kib(service.process.pid))
        finally:
            stop = True
        for client in clients:
            client.result()
        loaded = service.metric("aaserve_reloads_total", model="fragile", outcome="loaded")
    assert loaded == 51  # the start and fifty changes
    assert set(answers) == {("1", "d"), ("2", "D")}
    assert memory[-1] - memory[9] < 40 * 1024  # forty sessions more would be far above that


def test_a_version_that_is_out_of_memory_has_left_no_thread_behind(repository: Path, keys: Path) -> None:
    with running_service("--api-keys-file", str(keys), repository=repository, headers=AUTHORIZED) as service:

        def load(times: int) -> None:
            for number in range(times):
                (repository / "fragile" / "serving.toml").write_text(f"max_batch_size = {times + number}\n")
                assert change(service, "load").status_code == 200

        def threads() -> int:
            return len(list(Path(f"/proc/{service.process.pid}/task").iterdir()))

        load(4)
        few = threads()
        load(24)
        wait_until(lambda: threads() <= few + 1)


def test_a_served_version_that_is_damaged_in_place_is_not_loaded_again(repository: Path) -> None:
    with running_service(repository=repository) as service:
        model = repository / "fragile" / "2" / "model.onnx"
        content = model.read_bytes()
        model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        reload(service)
        described = service.client.get("/models/fragile").json()
        assert described["failures"][0]["reason"].startswith("fragile/2/model.onnx: expected sha256")
        assert said(ask(service, model="fragile")) == ("2", "D")  # what is in memory is whole


def test_changes_need_a_key_for_them(repository: Path, keys: Path) -> None:
    with running_service("--api-keys-file", str(keys), repository=repository) as service:
        for headers, status in (
            ({}, 401),
            ({"Authorization": f"Basic {KEY}"}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer only for metrics"}, 403),
        ):
            refused = service.client.post("/admin/models/fragile/unload", headers=headers)
            assert refused.status_code == status
            assert refused.headers["content-type"] == "application/problem+json"
        assert change(service, "load", "unknown").status_code == 404
        keys.write_text(f"admin {digest('another')}\n")  # rotated, without a restart
        assert change(service, "load").status_code == 401
        assert change(service, "load", key="another").status_code == 200


def test_without_keys_no_client_changes_anything(service: RunningService) -> None:
    refused = change(service, "unload", "aa-cifar100")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert service.classify(JPEG).status_code == 200


@pytest.mark.parametrize("content", ["admin", "admin 12ab", f"root {'0' * 64}", "secret"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(StartFailed, match=r"expected `scope\[,scope\] sha256`"):
        Keys(tmp_path / "keys")


def test_a_missing_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    status, stderr = start_that_fails("--api-keys-file", str(tmp_path / "none"))
    assert (status, stderr.count("\n")) == (1, 1)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who\nadmin,infer,metrics {digest(KEY)} operations\nmetrics {digest('only for metrics')}\n")
    return path


def change(service: RunningService, what: str, name: str = "fragile", key: str = KEY) -> httpx.Response:
    return service.client.post(f"/admin/models/{name}/{what}", headers={"Authorization": f"Bearer {key}"})


def resident_kib(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_a_model_that_answers_otherwise_than_where_it_was_made_is_not_served(tmp_path: Path) -> None:
    """On a machine that computes wrongly this would be the graph; here it is the stored answer that was changed."""
    repository = Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))
    folder = repository / "aa-cifar100" / "1"
    references = json.loads((folder / "references.json").read_text())
    [probe] = [reference for reference in references if reference["picture"] == "probe"]
    probe["logits"][0] += 0.1
    content = json.dumps(references).encode()
    (folder / "references.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["references.json"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, stderr = start_that_fails(repository=repository)
    assert status == 1
    assert "expected the stored answer to the probe within 1e-03, found" in stderr.splitlines()[-1]


def test_a_request_that_was_let_in_is_answered_by_the_version_that_let_it_in(repository: Path) -> None:
    """Its body arrives only after that version has been replaced twice, so that nothing keeps it but this request."""
    shutil.rmtree(repository / "fragile" / "2")
    content = picture(3)
    head = f"POST /classify?model=fragile&top_k=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n"
    with slow_body_service(repository=repository) as service:
        address = (service.client.base_url.host, service.client.base_url.port)
        with socket.create_connection(address, timeout=60) as slow:
            slow.sendall(f"{head}Content-Type: image/png\r\nConnection: close\r\n\r\n".encode() + content[:5])
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 1)
            for version, labels in (("2", NEW), ("3", OLD)):
                write_fragile_bundle(repository, version=version, labels=labels)
                reload(service)
            slow.sendall(content[5:])
            answer = b"".join(iter(lambda: slow.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 200")
    assert '"version":"1"' in answer


def test_a_version_replaced_in_place_comes_back_after_a_rollback(repository: Path, keys: Path) -> None:
    with running_service("--api-keys-file", str(keys), repository=repository, headers=AUTHORIZED) as service:
        assert change(service, "rollback").status_code == 404  # nothing was there before
        write_fragile_bundle(repository, version="2", labels=OLD)
        reload(service)
        assert said(ask(service, model="fragile")) == ("2", "d")
        assert "a restart undoes that: version 2 has been replaced" in change(service, "rollback").json()["notice"]
        assert said(ask(service, model="fragile")) == ("2", "D")
        assert change(service, "load").status_code == 200  # which does not bring back what was rolled back from
        reload(service)
        assert said(ask(service, model="fragile")) == ("2", "D")
        assert "notice" not in change(service, "rollback").json()
        assert said(ask(service, model="fragile")) == ("2", "d")


@pytest.mark.parametrize("cause", [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "no more files")])
def test_a_process_that_has_nothing_left_for_a_new_version_keeps_the_old_one(
    repository: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    async def scenario() -> None:
        settings = Settings(repository=repository, provider="cpu")
        with closing(CpuPool(1, ClientUsage())) as pool:
            loader = VersionLoader(settings, pool, Metrics(), Trials(60))
            async with open_repository(loader) as models:
                before = models.predictor("fragile", None)

                def open_bundle(_: Path) -> None:
                    raise cause

                monkeypatch.setattr("aaserve.service.repository.loader.open_bundle", open_bundle)
                with pytest.raises(LoadFailed, match="fragile/2: cannot be opened: "):
                    await models.load("fragile")
                assert models.predictor("fragile", None) is before
                [served] = [model for model in models if model.name == "fragile"]
                assert served.failures["2"].startswith("fragile/2: cannot be opened: ")

    asyncio.run(scenario())
