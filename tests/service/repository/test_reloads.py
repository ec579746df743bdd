"""Models and versions that are changed while they are served."""

import asyncio
import concurrent.futures
import shutil
import socket
from contextlib import aclosing, closing
from pathlib import Path

import httpx
import pytest

from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import LoadFailed
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.loader import VersionLoader
from aaserve.service.repository.repository import ModelRepository
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings
from tests.helpers import RunningService, running_service, slow_body_service, wait_until
from tests.service.repository.changing import AUTHORIZED, JPEG, NEW, OLD, ask, change, reload, said
from tests.toy_bundles import picture, write_fragile_bundle


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
    stop, content = False, picture(3)
    answers: list[tuple[str, str]] = []

    def send(service: RunningService) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
            while not stop:
                answer = client.post(
                    "/classify?model=fragile&top_k=1", content=content, headers={"Content-Type": "image/png"}
                )
                answers.append(said(answer))

    with running_service(repository=repository) as service, concurrent.futures.ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(send, service) for _ in range(8)]
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


def resident_kib(process_id: int) -> int:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


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
            async with aclosing(ModelRepository(loader)) as models:
                await models.open()
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
