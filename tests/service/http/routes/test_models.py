"""GET /models: the manifest and the state, for anybody."""

import pytest

from aaserve.bundle.manifest import Manifest
from aaserve.service.http.routes.model_card import without_folders
from tests.helpers import REPOSITORY, RunningService

FOLDER = REPOSITORY / "aa-cifar100" / "1"


def test_the_list_names_each_model_with_its_versions_and_states(service: RunningService) -> None:
    assert service.client.get("/models").json() == {
        "default_model": "aa-cifar100",
        "models": [
            {
                "name": "aa-cifar100",
                "versions": [{"version": "1", "task": "classification", "state": "ready"}],
                "failures": [],
            }
        ],
    }


def test_a_model_is_described_as_its_manifest_describes_it(service: RunningService) -> None:
    manifest = Manifest.model_validate_json((FOLDER / "manifest.json").read_text()).model_dump(mode="json")
    answer = service.client.get("/models/aa-cifar100").json()
    [version] = answer["versions"]
    assert answer["name"] == manifest["name"]
    assert version.pop("state") == "ready"
    assert version.pop("provider") == "CPUExecutionProvider"
    assert version.pop("sha256") == manifest["files"]
    command = version["provenance"].pop("command")
    assert command == (
        "python -m export checkpoint.safetensors --name aa-cifar100 --version 1 --with-attention --force "
        "--accuracy 2026-11-22-accuracy-aa-cifar100.json"  # without the folders
    )
    del manifest["provenance"]["command"]
    assert version == {name: manifest[name] for name in version}
    assert {"version", "architecture", "labels", "preprocessing", "accuracy", "parity", "provenance"} <= set(version)


def test_an_unknown_model_is_not_found(service: RunningService) -> None:
    answer = service.client.get("/models/other")
    assert answer.status_code == 404
    assert answer.json()["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "python -m export '/home/My Files/x.pt' --labels=/a/b/labels.txt",
            "python -m export x.pt --labels=labels.txt",
        ),
        ("python -m export ../x.pt --repository /srv/models/", "python -m export x.pt --repository models"),
        ("python -m export 'half a quotation", ""),
    ],
)
def test_a_command_is_shown_without_folders(command: str, shown: str) -> None:
    assert without_folders(command) == shown
