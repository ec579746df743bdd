"""Several models and versions: which of them are served, with which settings."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, running_service, start_that_fails
from tests.service.repository.changing import JPEG, PICTURE, ask, said
from tests.service.repository.serving import serving
from tests.toy_bundles import SIDE, picture


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
