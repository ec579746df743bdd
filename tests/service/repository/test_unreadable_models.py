"""A folder that cannot be read, or whose name no model can have, is the problem of that one model."""

import asyncio
import errno
import os
import shutil
from pathlib import Path

import httpx
import pytest

from aaserve.bundle.bundle import scan_repository
from aaserve.bundle.errors import BundleError
from tests.helpers import wait_until
from tests.service.repository.serving import serving
from tests.toy_bundles import picture, write_fragile_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    write_fragile_bundle(folder, name="good")
    write_fragile_bundle(folder, name="bad")
    return folder


def unreadable(monkeypatch: pytest.MonkeyPatch, *folders: Path, number: int = errno.EACCES) -> None:
    """Have these folders fail as one of another owner does, which root could read."""
    scandir = os.scandir

    def failing(path: Path) -> object:
        if path in folders:
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr("aaserve.bundle.bundle.os.scandir", failing)


def classify(client: httpx.Client, model: str) -> int:
    return client.post(
        f"/classify?model={model}", content=picture(3), headers={"Content-Type": "image/png"}
    ).status_code


def failures(client: httpx.Client) -> dict[str, str]:
    models = client.get("/models").json()["models"]
    return {model["name"]: failure["reason"] for model in models for failure in model["failures"]}


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP])
def test_a_folder_that_cannot_be_read_fails_alone(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    unreadable(monkeypatch, repository / "bad", number=number)
    reason = f"expected a readable folder, found: {os.strerror(number)}"
    with serving(repository) as (client, _):
        assert client.get("/health/ready").status_code == 200
        assert (classify(client, "good"), classify(client, "bad")) == (200, 404)
        assert failures(client) == {"bad": f"bad: {reason}"}
        assert client.get("/metrics").status_code == 200
        assert [record.message for record in caplog.records if "readable folder" in record.message] == [
            f"{repository}/bad: {reason}"
        ]
        assert client.post("/admin/models/bad/load").status_code == 409
    with serving(repository, strict=True) as (client, app):
        wait_until(lambda: app.state.lifecycle.failure)
        assert app.state.lifecycle.failure == f"{repository}/bad: {reason}"


def test_a_model_whose_folder_becomes_unreadable_goes_on_and_a_reload_says_why(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(repository) as (client, _):
        unreadable(monkeypatch, repository / "bad")
        assert client.post("/admin/models/bad/load").status_code == 409
        assert (classify(client, "good"), classify(client, "bad")) == (200, 200)
        assert failures(client) == {"bad": "bad: expected a readable folder, found: Permission denied"}
        unreadable(monkeypatch, repository)
        for name in ("good", "nowhere"):
            assert client.post(f"/admin/models/{name}/load").status_code == 409
        assert classify(client, "good") == 200


def test_folders_of_the_system_are_passed_over_and_names_that_no_model_can_have_are_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lost+found", ".Trash-1000", "@eaDir", "System Volume Information"):
        (repository / name).mkdir()
    (repository / "README.md").write_text("no folder")
    (repository / "gone").symlink_to(repository / "nowhere")
    for name in (b"caf\xe9", b"my model"):
        (repository / os.fsdecode(name) / "1").mkdir(parents=True)
    unreadable(monkeypatch, repository / "lost+found", repository / "System Volume Information")
    with serving(repository) as (client, _):
        assert client.get("/health/ready").status_code == 200
        found = failures(client)
        assert set(found) == {"caf\\xe9", "my model"}
        assert all("expected a name of at most 100 letters" in reason for reason in found.values())
        assert client.get("/models").status_code == client.get("/metrics").status_code == 200
        assert client.post("/v2/repository/index").status_code == 200
        assert client.get("/models/caf%5Cxe9").json()["name"] == "caf\\xe9"
    assert set(scan_repository(repository)) == {"bad", "good", "caf\\xe9", "my model"}


def test_a_load_that_finds_nothing_to_serve_is_refused_and_the_model_goes_on(repository: Path) -> None:
    with serving(repository) as (client, _):
        (repository / "bad" / "serving.toml").write_text("versions = []")
        assert client.post("/admin/models/bad/load").status_code == 409
        assert failures(client) == {"bad": "bad: expected at least one version to serve, found none"}
        shutil.rmtree(repository / "bad" / "1")
        (repository / "bad" / "serving.toml").unlink()
        assert client.post("/v2/repository/models/bad/load").status_code == 409
        assert classify(client, "bad") == 200


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_repository_that_cannot_be_read_is_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unreadable(monkeypatch, repository, number=number)
    with pytest.raises(
        BundleError, match=f"{repository}: expected a folder of bundles .*, found: {os.strerror(number)}"
    ):
        scan_repository(repository)


def test_a_repository_that_becomes_unreadable_is_a_failed_change_of_each_model(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(repository) as (client, app):
        unreadable(monkeypatch, repository)
        assert client.post("/admin/models/good/load").status_code == 409
        reason = "the repository: expected a folder of bundles (NAME/VERSION/manifest.json), found: Permission denied"
        assert client.get("/models/good").json()["failures"] == [{"version": None, "reason": reason}]
        asyncio.run(app.state.lifecycle.repository.reload())  # what SIGHUP does
        for name in ("good", "bad"):
            assert client.get(f"/models/{name}").json()["failures"] == [{"version": None, "reason": reason}]
        assert 'aaserve_reloads_total{model="good",outcome="failed"} 2.0' in client.get("/metrics").text
        assert classify(client, "good") == 200
