"""Which version is served after a rollback and a restart."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.service.repository.administration import damage, serving, write_two_models
from tests.toy_bundles import write_fragile_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_two_models(tmp_path / "repository")


@pytest.fixture
def rolled_back(repository: Path) -> Path:
    """The repository after fragile was rolled back from version 4 to 3 and the service has ended."""
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4", labels=("A", "B", "C", "D"))
        assert service.change("load")["versions"][0] == {"version": "4", "task": "classification", "state": "ready"}
        answer = service.change("rollback")
        assert answer == {
            "name": "fragile",
            "versions": [
                {"version": "3", "task": "classification", "state": "ready"},
                {"version": "4", "task": "classification", "state": "standby"},
            ],
            "failures": [],
            "notice": "rolled back from version 4 to 3",
        }
        service.change("load")
        assert service.version == "3"
    return repository


def test_a_rollback_holds_over_a_restart_until_something_newer_comes(rolled_back: Path) -> None:
    with serving(rolled_back) as service:
        assert service.version == "3"
        (rolled_back / "fragile" / "serving.toml").write_text("versions = []")
        assert service.client.post("/admin/models/fragile/load").status_code == 409
        (rolled_back / "fragile" / "serving.toml").unlink()
        assert service.change("load")["notice"] == service.card()["notice"]
        assert service.card()["notice"] == "version 4 is set aside by rollback.json"
        assert service.classify(version="4").status_code == 404
        write_fragile_bundle(rolled_back, version="5")
        assert "notice" not in service.change("load")
        assert service.version == "5"
        shutil.rmtree(rolled_back / "fragile" / "5")
        service.change("load")
        assert service.version == "3"  # 4 has not become better
        write_fragile_bundle(rolled_back, version="4", labels=("E", "F", "G", "H"))  # exported anew, it may have
        service.change("load")
        assert service.version == "4"


def test_a_rollback_is_undone_by_another_one_also_after_a_restart(rolled_back: Path) -> None:
    with serving(rolled_back) as service:
        assert "notice" not in service.change("rollback")
        assert service.version == "4"
        assert not (rolled_back / "fragile" / "rollback.json").exists()
    with serving(rolled_back) as service:
        assert service.version == "4"
        assert service.client.post("/admin/models/fragile/rollback").status_code == 404
        shutil.rmtree(rolled_back / "fragile" / "4")
        service.change("load")
        assert service.version == "3"


def test_a_rollback_is_undone_by_deleting_its_file(repository: Path) -> None:
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4")
        service.change("load")
        service.change("rollback")
        (repository / "fragile" / "rollback.json").unlink()
        assert "notice" not in service.change("load")
        assert service.version == "4"


def test_two_rollbacks_in_a_row_forget_neither(rolled_back: Path) -> None:
    with serving(rolled_back) as service:
        write_fragile_bundle(rolled_back, version="5")
        service.change("load")
        service.change("rollback")
        assert service.version == "3"
        service.change("rollback")
        assert service.version == "5"
        service.change("rollback")
    with serving(rolled_back) as service:
        assert service.version == "3"
        shutil.rmtree(rolled_back / "fragile" / "5")
        service.change("load")
        assert service.version == "3"


def test_where_all_versions_are_served_the_one_rolled_back_from_stays_away(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text('versions = "all"')
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4")
        assert len(service.change("load")["versions"]) == 2
        service.change("rollback")
    with serving(repository) as service:
        assert [version["version"] for version in service.card()["versions"]] == ["3"]
        write_fragile_bundle(repository, version="5")
        assert [version["version"] for version in service.change("load")["versions"]][:2] == ["5", "3"]


def test_where_all_versions_are_served_a_rollback_is_undone_after_a_restart_too(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text('versions = "all"')
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4")
        service.change("load")
        service.change("rollback")
    with serving(repository) as service:
        service.change("rollback")
        assert not (repository / "fragile" / "rollback.json").exists()
        answer = service.change("load")
        assert [(version["version"], version["state"]) for version in answer["versions"]] == [
            ("4", "ready"),
            ("3", "ready"),
        ]


def test_versions_are_numbers_also_after_a_rollback(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text('versions = "all"')
    write_fragile_bundle(repository, version="9")
    with serving(repository) as service:
        write_fragile_bundle(repository, version="10")
        for change, highest in (("load", "10"), ("rollback", "9"), ("rollback", "10")):
            assert service.change(change)["versions"][0]["version"] == highest
            assert service.version == highest


def test_a_rollback_of_a_version_named_in_serving_toml_holds_too(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text("versions = [3]")
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4")
        (repository / "fragile" / "serving.toml").write_text("versions = [4]")
        service.change("load")
        service.change("rollback")
    with serving(repository) as service:
        assert service.version == "3"


def test_a_rollback_in_a_repository_that_cannot_be_written_says_that_a_restart_undoes_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    words = "rolled back from version 4 to 3; a restart undoes that: rollback.json cannot be written: Read-only file"
    with serving(repository) as service:
        write_fragile_bundle(repository, version="4")
        service.change("load")
        monkeypatch.setattr("aaserve.bundle.files.text.tempfile.mkstemp", refuse)
        assert words in service.change("rollback")["notice"]
        assert words in service.card()["notice"]
        assert words in caplog.text
        service.change("load")  # nor does a reload
        assert service.version == "3"
    with serving(repository) as service:
        assert service.version == "4"


def test_a_rollback_of_settings_says_that_a_restart_undoes_it(repository: Path) -> None:
    with serving(repository) as service:
        (repository / "fragile" / "serving.toml").write_text("max_queue_size = 5")
        service.change("load")
        assert service.metric('aaserve_queue_capacity{model="fragile"}') == 5
        assert "a restart undoes that: serving.toml has been changed" in service.change("rollback")["notice"]
        assert "notice" in service.change("load")
        assert service.metric('aaserve_queue_capacity{model="fragile"}') == 128
        assert "notice" not in service.change("rollback")
        assert service.metric('aaserve_queue_capacity{model="fragile"}') == 5


def test_a_rollback_file_that_is_none_concerns_its_model_only(rolled_back: Path) -> None:
    path = rolled_back / "fragile" / "rollback.json"
    remembered = json.loads(path.read_text())
    for content in ("{", "[]", json.dumps({**remembered, "serve": ["latest"]})):
        path.write_text(content)
        with serving(rolled_back) as service:
            assert service.classify().status_code == 404
            assert service.classify(model="other").status_code == 200
            [failure] = service.card()["failures"]
            assert failure["reason"].startswith("fragile/rollback.json: expected set_aside and serve, found: ")


def test_a_version_that_was_rolled_back_from_takes_no_ones_place(rolled_back: Path) -> None:
    damage(rolled_back / "fragile" / "3")
    with serving(rolled_back) as service:
        assert service.classify().status_code == 404
    write_fragile_bundle(rolled_back, version="2")
    with serving(rolled_back) as service:
        assert service.version == "2"
