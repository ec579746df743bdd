"""Where each well-known server fails: one test for each sentence, over a socket, with a graph that really fails.

One bad item kills a batch, dead workers behind green health, unbounded queues, fixed waits: here. A caller who leaves
hangs its mates, idle polling: test_lifecycle.py.
"""

import concurrent.futures
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.helpers import EXAMPLES, REPOSITORY, ROOT, RunningService, held_service, running_service, wait_until
from tests.toy_bundles import NOT_A_NUMBER, OUT_OF_RANGE, label_of, picture, write_fragile_bundle


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The fragile network; six requests at once make one batch."""
    repository = tmp_path_factory.mktemp("fragile")
    write_fragile_bundle(repository)
    with held_service("--max-batch-size", "6", repository=repository) as running:
        yield running


def together(service: RunningService, reds: list[int]) -> list[httpx.Response]:
    with concurrent.futures.ThreadPoolExecutor(len(reds)) as threads:
        return list(threads.map(lambda red: service.classify(picture(red), top_k=1), reds))


def test_one_bad_item_does_not_kill_a_batch(fragile: RunningService) -> None:
    calls = fragile.metric("aaserve_batch_size_count")
    reds = [1, 2, OUT_OF_RANGE, 3, 5, 6]
    responses = together(fragile, reds)
    for red, response in zip(reds, responses, strict=True):
        if red == OUT_OF_RANGE:
            assert (response.status_code, response.json()["code"]) == (500, "internal")
            assert "Gather" not in response.text
        else:
            assert response.json()["predictions"][0]["label"] == label_of(red)
    assert fragile.metric("aaserve_batch_size_count") == calls + 7  # all together, then each alone
    assert fragile.client.get("/health/ready").status_code == 200


def test_logits_that_are_no_numbers_fail_their_own_request_only(fragile: RunningService) -> None:
    calls = fragile.metric("aaserve_batch_size_count")
    responses = together(fragile, [1, 2, NOT_A_NUMBER, 3, 5, 6])
    assert [response.status_code for response in responses] == [200, 200, 500, 200, 200, 200]
    assert fragile.metric("aaserve_batch_size_count") == calls + 1


def test_only_bad_items_do_not_make_a_sound_session_look_dead(fragile: RunningService) -> None:
    responses = together(fragile, [OUT_OF_RANGE] * 6)
    assert {response.status_code for response in responses} == {500}
    assert fragile.metric("aaserve_model_reopened_total") == 0
    assert fragile.client.get("/health/ready").status_code == 200
    assert {response.status_code for response in together(fragile, [3] * 6)} == {200}


def test_a_bad_item_of_a_batch_request_fails_alone(fragile: RunningService) -> None:
    reds = [1, OUT_OF_RANGE, NOT_A_NUMBER, 2, 3, 5]
    files = [("image", (f"{red}.png", picture(red), "image/png")) for red in reds]
    response = fragile.client.post("/classify/batch", files=files)
    assert response.status_code == 200
    for red, result in zip(reds, response.json()["results"], strict=True):
        if red in (OUT_OF_RANGE, NOT_A_NUMBER):
            assert result.keys() == {"problem"}
            assert (result["problem"]["status"], result["problem"]["code"]) == (500, "internal")
        else:
            assert result["predictions"][0]["label"] == label_of(red)


DYING = """
import pathlib, sys
from aaserve.service.engine.runtime.session import OnnxSession

died, run = pathlib.Path({flag!r}), OnnxSession.run

def run_until_death(self, *arguments):
    if died.exists() and not getattr(self, "reopened", False):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    return run(self, *arguments)

def reopened(self, *arguments, **options):
    init(self, *arguments, **options)
    self.reopened = died.exists()

init, OnnxSession.__init__, OnnxSession.run = OnnxSession.__init__, reopened, run_until_death
from aaserve.service.__main__ import main
sys.exit(main())
"""


class DyingService:
    """The real process, but its session dies when a file appears; one that is opened after that is sound."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "repository"
        self.bundle = write_fragile_bundle(self.repository)
        self._flag = folder / "died"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--port", str(port), "--repository", str(self.repository)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DYING.format(flag=str(self._flag)), *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        wait_until(self.ready)

    def ready(self) -> bool:
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def classify(self) -> httpx.Response:
        return self.client.post("/classify", content=picture(3), headers={"Content-Type": "image/png"})

    def die(self) -> None:
        self._flag.touch()

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.communicate(timeout=60)


REOPENING_IS_HELD = """
import pathlib, sys, time
from aaserve.service.engine.runtime.session import OnnxSession

died, go = pathlib.Path({died!r}), pathlib.Path({go!r})
run, init = OnnxSession.run, OnnxSession.__init__

def run_until_death(self, *arguments):
    if died.exists() and self.of_fragile and not self.reopened:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    return run(self, *arguments)

def held(self, bundle, *arguments, **options):
    self.of_fragile, self.reopened = bundle.manifest.name == "fragile", died.exists()
    while self.of_fragile and self.reopened and not go.exists():
        time.sleep(0.02)
    init(self, bundle, *arguments, **options)

OnnxSession.run, OnnxSession.__init__ = run_until_death, held
from aaserve.service.__main__ import main
sys.exit(main())
"""


def test_readiness_with_several_models_is_as_operations_md_says(tmp_path: Path) -> None:
    repository, died, go = tmp_path / "repository", tmp_path / "died", tmp_path / "go"
    write_fragile_bundle(repository)
    shutil.copytree(REPOSITORY / "aa-cifar100", repository / "aa-cifar100")
    (repository / "broken" / "1").mkdir(parents=True)
    script = REOPENING_IS_HELD.format(died=str(died), go=str(go))
    with running_service(run=("-c", script), repository=repository) as service:

        def statuses(*names: str) -> list[int]:
            asked = [service.classify(picture(3), model=name) for name in names]
            probed = [service.client.get(f"/health/{probe}") for probe in ("live", "ready")]
            return [answer.status_code for answer in [*probed, *asked]]

        assert statuses("fragile", "aa-cifar100", "broken") == [200, 200, 200, 200, 404]
        died.touch()
        assert service.classify(picture(3), model="fragile").status_code == 500
        wait_until(lambda: service.client.get("/health/live").json() == {"state": "recovering"})
        assert statuses("fragile", "aa-cifar100", "broken") == [200, 503, 503, 200, 404]
        go.touch()
        wait_until(lambda: statuses("fragile", "aa-cifar100", "broken") == [200, 200, 200, 200, 404])


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[DyingService]:
    service = DyingService(tmp_path)
    try:
        yield service
    finally:
        service.close()


def test_a_session_that_dies_is_opened_again(dying: DyingService) -> None:
    assert dying.classify().status_code == 200
    dying.die()
    assert dying.classify().status_code == 500
    wait_until(lambda: dying.classify().status_code == 200)  # 503 in between
    assert 'aaserve_model_reopened_total{model="fragile"} 1.0' in dying.client.get("/metrics").text


def test_no_dead_worker_behind_green_health(dying: DyingService) -> None:
    """The bundle on disk is no longer the one that was checked, so the session cannot be opened again."""
    (dying.bundle / "model.onnx").write_bytes(b"something else")
    dying.die()
    assert dying.classify().status_code == 500
    assert dying.process.wait(60) == 1
    assert dying.process.stderr is not None
    errors = [line for line in dying.process.stderr if line.startswith("error: ")]
    assert len(errors) == 1
    assert "fragile died and could not be opened again" in errors[0]
    assert "model.onnx: expected sha256" in errors[0]


def test_there_is_no_fixed_wait() -> None:
    """Greedy by default: a lonely row goes at once, so that the model has computed before any window could end."""
    from aaserve.service.settings import Settings

    assert Settings.model_fields["max_queue_delay_ms"].default == 0
    with running_service(repository=REPOSITORY) as service:
        service.classify((EXAMPLES / "rocket.jpg").read_bytes())
        assert service.metric("aaserve_batch_size_sum") == service.metric("aaserve_batch_size_count") == 1


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="threads have no priority of their own here")
def test_threads_that_compute_give_way_to_the_event_loop_which_does_not_interrupt_them() -> None:
    with running_service() as service:
        service.classify((EXAMPLES / "rocket.jpg").read_bytes())
        service.client.post("/explain", content=(EXAMPLES / "rocket.jpg").read_bytes())  # decoded beside the lanes
        loop = service.process.pid
        priorities, schedulers = set(), {os.sched_getscheduler(loop)}
        for thread in [int(task.name) for task in Path(f"/proc/{loop}/task").iterdir()]:
            with suppress(ProcessLookupError):  # it has ended since it was listed
                priority = os.getpriority(os.PRIO_PROCESS, thread) - os.getpriority(os.PRIO_PROCESS, loop)
                priorities.add(priority)
                if priority:
                    schedulers.add(os.sched_getscheduler(thread))
        assert {5, 10} <= priorities  # inference, decoding
        assert schedulers == {os.SCHED_BATCH}
