"""GET /models: the manifest and the state, for anybody."""

import asyncio
import json
from pathlib import Path

import pytest

from bundle.bundle import open_bundle
from service.lifecycle import Lifecycle, State
from service.metrics import Metrics
from service.settings import Settings
from tests.helpers import REPOSITORY, RunningService

FOLDER = REPOSITORY / "aa-cifar100" / "1"


def test_the_list_names_each_model_with_its_versions_and_states(service: RunningService) -> None:
    assert service.client.get("/models").json() == {
        "models": [{"name": "aa-cifar100", "versions": [{"version": "1", "state": "ready"}]}]
    }


def test_a_model_is_described_as_its_manifest_describes_it(service: RunningService) -> None:
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    answer = service.client.get("/models/aa-cifar100").json()
    [version] = answer["versions"]
    assert answer["name"] == manifest["name"]
    assert version.pop("state") == "ready"
    assert version.pop("provider") == "CPUExecutionProvider"
    assert version.pop("sha256") == manifest["files"]
    assert version == {name: manifest[name] for name in version}
    assert {"version", "architecture", "labels", "preprocessing", "accuracy", "parity", "provenance"} <= set(version)


def test_an_unknown_model_is_not_found(service: RunningService) -> None:
    answer = service.client.get("/models/other")
    assert answer.status_code == 404
    assert answer.json()["code"] == "model_not_found"


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_a_model_has_a_state_before_during_and_after(broken: bool, tmp_path: Path) -> None:
    served = open_bundle(FOLDER)
    if broken:
        (tmp_path / "model.onnx").write_bytes(b"no model")
        served = type(served)(tmp_path, served.manifest)

    async def states() -> list[tuple[State, str | None]]:
        failed = asyncio.Event()
        lifecycle = Lifecycle([served], Settings(provider="cpu"), Metrics(), on_failure=failed.set)
        found = [lifecycle.served()[0]]
        async with lifecycle:
            while lifecycle.state is State.STARTING:
                await asyncio.sleep(0.01)
            found.append(lifecycle.served()[0])
        found.append(lifecycle.served()[0])
        return [(one.state, one.provider) for one in found]

    cpu = "CPUExecutionProvider"
    expected = [(State.STARTING, None), (State.READY, cpu), (State.DRAINING, cpu)]
    assert asyncio.run(states()) == ([(State.STARTING, None), *[(State.FAILED, None)] * 2] if broken else expected)
