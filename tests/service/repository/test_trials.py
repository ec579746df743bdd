"""A new version is tried in a process of its own: what it does to ONNX Runtime, it does there."""

import asyncio
import hashlib
import os
import platform
import shutil
import signal
from pathlib import Path

import pytest

from aaserve.bundle.bundle import MODEL_FILE, Bundle, open_bundle
from aaserve.bundle.errors import BundleError
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import StartFailed
from aaserve.service.repository.trials import Trials, try_model
from aaserve.service.settings import Settings
from tests import tried_models
from tests.helpers import running_service, start_that_fails, wait_until
from tests.toy_bundles import picture, write_fragile_bundle

AUTHORIZED = {"Authorization": "Bearer key"}
CRASH = "expected a model that loads and runs in a trial, but it crashed with signal 8 (SIGFPE)"
LONG = 600.0  # seconds
SETTINGS = Settings(provider="cpu")
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="elsewhere, a division that overflows is no crash"
)


@pytest.fixture(autouse=True)
def every_trial_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "check", tried_models.TRY)
    monkeypatch.delenv(tried_models.FOLDER)


def trial_processes(process_id: int) -> list[int]:
    """Trials that this process has started and that have not ended."""
    threads = Path(f"/proc/{process_id}/task").iterdir()
    children = [int(child) for thread in threads for child in read_proc(thread / "children").split()]
    return [child for child in children if b"trial_process" in read_proc(Path(f"/proc/{child}/cmdline"))]


def read_proc(path: Path) -> bytes:
    """Nothing if the process or the thread has ended since its folder was listed."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_version_that_crashes_onnx_runtime_never_takes_over(tmp_path: Path, workers: str) -> None:
    repository, keys = tmp_path / "repository", tmp_path / "keys"
    keys.write_text(f"admin,infer,metrics {hashlib.sha256(b'key').hexdigest()}\n")
    for version, fault in (("1", None), ("2", "crashes")):
        write_fragile_bundle(repository, version=version, fault=fault)
    options = ("--api-keys-file", str(keys), "--workers", workers)
    with running_service(*options, repository=repository, headers=AUTHORIZED) as service:
        wait_until(lambda: sum(line.rstrip().endswith(" ready") for line in service.log) == int(workers))
        assert service.client.get("/models/fragile").json()["failures"] == [
            {"version": "2", "reason": f"fragile/2/model.onnx: {CRASH}"}
        ]
        write_fragile_bundle(repository, version="3", fault="crashes")
        assert service.client.post("/admin/models/fragile/load").status_code == 409
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum(f"fragile/3/model.onnx: {CRASH}" in line for line in service.log) == 1 + int(workers))
        for _ in range(4):  # of either worker
            assert service.classify(picture(1), model="fragile").json()["version"] == "1"
        assert not any("replacing it" in line for line in service.log)


def test_a_service_of_which_every_model_crashes_ends_with_one_line(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path, fault="crashes")
    status, stderr = start_that_fails(repository=tmp_path)
    assert (status, stderr.splitlines()[-1]) == (1, f"error: {tmp_path}/fragile/1/model.onnx: {CRASH}")


def test_a_model_that_never_answers_is_given_up(tmp_path: Path) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path, fault="hangs"))
    with pytest.raises(StartFailed, match=r"it did not finish within 0.2 s \(model_load_timeout_ms\)"):
        asyncio.run(Trials(0.2).check(bundle, SETTINGS))
    assert trial_processes(os.getpid()) == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_is_stopped_while_it_tries_a_model_ends_at_once_and_so_does_the_trial(
    tmp_path: Path, workers: str
) -> None:
    write_fragile_bundle(tmp_path, fault="hangs")
    with running_service("--workers", workers, repository=tmp_path, ready=False) as service:

        def trials() -> list[int]:
            supervisor = service.process.pid
            children = read_proc(Path(f"/proc/{supervisor}/task/{supervisor}/children")).split()
            return [trial for parent in (supervisor, *map(int, children)) for trial in trial_processes(parent)]

        tried: list[int] = []
        wait_until(lambda: tried.extend(trials()) or tried)
        assert len(tried) == 1  # by one of the workers for all of them
        assert service.stop() == 0
        wait_until(lambda: not any(Path(f"/proc/{trial}").exists() for trial in tried))
    assert not any("error" in line.lower() for line in service.log)


def test_a_trial_ends_when_its_caller_stops_waiting(tmp_path: Path) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path, fault="hangs"))

    async def scenario() -> None:
        trial = asyncio.create_task(try_model(bundle, SETTINGS, LONG))
        while not trial_processes(os.getpid()):
            await asyncio.sleep(0.01)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial

    asyncio.run(scenario())
    assert trial_processes(os.getpid()) == []


def test_a_tried_bundle_is_not_tried_again_by_any_process(tmp_path: Path) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path / "repository"))
    first, second, alone = Trials(LONG, tmp_path), Trials(LONG, tmp_path), Trials(LONG)
    asyncio.run(first.check(bundle, SETTINGS))
    bundle.model_path.unlink()  # what is tried must be read
    asyncio.run(first.check(bundle, SETTINGS))
    asyncio.run(second.check(bundle, SETTINGS))
    with pytest.raises(BundleError, match="expected a plain file, found none"):
        asyncio.run(alone.check(bundle, SETTINGS))


def test_what_one_runtime_has_passed_is_tried_again_in_another(tmp_path: Path) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path))
    trials = Trials(LONG)
    asyncio.run(trials.check(bundle, SETTINGS))
    bundle.model_path.unlink()  # what is tried must be read
    asyncio.run(trials.check(bundle, SETTINGS))
    with pytest.raises(BundleError, match="expected a plain file, found none"):
        asyncio.run(trials.check(bundle, Settings(provider="openvino")))


def test_workers_that_wait_for_a_trial_take_its_verdict_and_later_ones_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path / "repository", fault="crashes"))
    tried = []

    async def counted(bundle: Bundle, settings: Settings, seconds: float) -> str | None:
        tried.append(bundle)
        return await try_model(bundle, settings, seconds)

    async def scenario() -> None:
        found = await asyncio.gather(
            *(Trials(LONG, tmp_path).check(bundle, SETTINGS) for _ in range(3)), return_exceptions=True
        )
        assert [str(error) for error in found] == [f"{bundle.model_path}: {CRASH}"] * 3
        assert len(tried) == 1
        with pytest.raises(StartFailed):
            await Trials(LONG, tmp_path).check(bundle, SETTINGS)
        assert len(tried) == 2

    monkeypatch.setattr("aaserve.service.repository.trials.try_model", counted)
    asyncio.run(scenario())


def test_the_model_that_is_loaded_is_the_one_that_was_checked(tmp_path: Path) -> None:
    bundle = open_bundle(write_fragile_bundle(tmp_path))
    other = write_fragile_bundle(tmp_path / "other", ballast_bytes=1000)
    content = bundle.model_path.read_bytes()
    settings = Settings(provider="cpu", max_batch_size=1)
    shutil.copy(other / MODEL_FILE, bundle.model_path)  # sound, and not what the manifest says
    for use in (lambda: OnnxSession(bundle, settings), lambda: asyncio.run(try_model(bundle, SETTINGS, LONG))):
        with pytest.raises(BundleError, match=r"model\.onnx: expected sha256"):
            use()
    bundle.model_path.write_bytes(content)
    OnnxSession(bundle, settings).warm_up()
