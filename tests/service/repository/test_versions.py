"""Which version is served: after a rollback and a restart, where the newest one is broken, and what is said of it."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from aaserve.service.settings import Settings
from tests.helpers import ROOT
from tests.service.repository.serving import serving as serving_models
from tests.toy_bundles import picture, write_fragile_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """fragile/3, and another model."""
    write_fragile_bundle(tmp_path / "repository", version="3")
    write_fragile_bundle(tmp_path / "repository", name="other")
    return tmp_path / "repository"


class Service:
    """The application on this repository, and whom to ask."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def change(self, what: str, name: str = "fragile") -> dict:
        answer = self.client.post(f"/admin/models/{name}/{what}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def classify(self, **params: str) -> httpx.Response:
        return self.client.post("/classify", params={"model": "fragile", **params}, content=picture(3))

    @property
    def version(self) -> str:
        """That answers by default."""
        answer = self.classify()
        assert answer.status_code == 200, answer.text
        return answer.json()["version"]

    def card(self, name: str = "fragile") -> dict:
        return self.client.get(f"/models/{name}").json()

    def metric(self, sample: str) -> float | None:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return None


@contextmanager
def serving(repository: Path, **settings: object) -> Iterator[Service]:
    with serving_models(repository, **settings) as (client, _):
        client.headers["Content-Type"] = "image/png"
        yield Service(client)


def damage(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")


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
        monkeypatch.setattr("aaserve.service.repository.rollback.tempfile.mkstemp", refuse)
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


def test_where_the_newest_version_is_broken_the_newest_whole_one_is_served_and_that_is_said(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in ("1", "4", "5"):
        write_fragile_bundle(repository, version=version)
    damage(repository / "fragile" / "5")
    damage(repository / "fragile" / "4")
    notice = "version 5, 4 cannot be served, version 3 is served instead"
    with serving(repository) as service:
        assert service.version == "3"
        assert service.client.get("/health/ready").status_code == 200
        assert {failure["version"] for failure in service.card()["failures"]} == {"4", "5"}
        assert service.card()["notice"] == notice
        [listed] = [m for m in service.client.get("/models").json()["models"] if m["name"] == "fragile"]
        assert listed["notice"] == notice
        assert f"fragile: {notice}" in caplog.text
        assert service.metric('aaserve_model_fallback{model="fragile"}') == 1
        assert service.metric('aaserve_model_fallback{model="other"}') == 0
        assert service.metric("aaserve_models_missing") == 0
        assert service.metric('aaserve_reloads_total{model="fragile",outcome="failed"}') == 1
        assert service.client.post("/admin/models/fragile/load").status_code == 409  # nothing better has come
        assert (service.version, service.card()["notice"]) == ("3", notice.replace("5, 4", "5"))
        write_fragile_bundle(repository, version="5")
        assert "notice" not in service.change("load")
        assert (service.version, service.metric('aaserve_model_fallback{model="fragile"}')) == ("5", 0)


def test_a_version_that_was_rolled_back_from_takes_no_ones_place(rolled_back: Path) -> None:
    damage(rolled_back / "fragile" / "3")
    with serving(rolled_back) as service:
        assert service.classify().status_code == 404
    write_fragile_bundle(rolled_back, version="2")
    with serving(rolled_back) as service:
        assert service.version == "2"


@pytest.mark.parametrize(
    ("policy", "options", "served"),
    [
        ("latest", {"broken_version": "fail"}, []),
        ("[4]", {}, []),
        ("[3, 4]", {}, ["3"]),
        ("all", {}, ["3"]),
        ("all", {"broken_version": "fail"}, []),
    ],
)
def test_a_setting_and_the_policy_say_what_takes_the_place_of_a_broken_version(
    repository: Path, policy: str, options: dict[str, str], served: list[str]
) -> None:
    write_fragile_bundle(repository, version="4")
    damage(repository / "fragile" / "4")
    versions = policy if policy[0] == "[" else f'"{policy}"'
    (repository / "fragile" / "serving.toml").write_text(f"versions = {versions}")
    with serving(repository, **options) as service:
        assert [version["version"] for version in service.card()["versions"]] == served
        assert service.card()["failures"][0]["version"] == "4"
        assert service.metric('aaserve_model_ready{model="fragile",version="4"}') == (None if served else 0)
        assert service.metric("aaserve_models_missing") == (0 if served else 1)
        assert service.classify(model="other").status_code == 200


def test_a_model_that_does_not_load_shows_in_the_metrics_and_so_do_requests_for_it(repository: Path) -> None:
    (repository / "fragile" / "serving.toml").write_text("= =")
    with serving(repository) as service:
        assert service.metric('aaserve_rejected_total{reason="model_not_found"}') == 0
        assert service.metric('aaserve_model_ready{model="fragile",version=""}') == 0
        assert service.metric('aaserve_reloads_total{model="other",outcome="failed"}') == 0
        assert service.metric("aaserve_models_missing") == 1
        assert service.classify().status_code == 404
        assert service.client.post("/v2/models/fragile/infer", json={}).status_code == 404
        assert service.metric('aaserve_rejected_total{reason="model_not_found"}') == 2
        assert service.client.get("/nothing").status_code == 404
        assert service.metric('aaserve_rejected_total{reason="not_found"}') == 1
        (repository / "fragile" / "serving.toml").unlink()
        service.change("load")
        assert service.metric("aaserve_models_missing") == 0
        assert service.metric('aaserve_model_ready{model="fragile",version=""}') is None
        assert service.metric('aaserve_model_ready{model="fragile",version="3"}') == 1


def test_each_broken_version_has_one_line_in_the_log(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_fragile_bundle(repository, version="2")
    for version in "23":
        damage(repository / "fragile" / version)
    with serving(repository):
        lines = [line for line in caplog.messages if str(repository / "fragile") in line]
    assert len(lines) == len(set(lines)) == 2


def test_readiness_waits_for_the_models_that_are_required(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(repository / "fragile" / "3")
    caplog.set_level("INFO")
    with serving(repository, required_models="other, fragile,third") as service:
        ready = service.client.get("/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert ready.json()["detail"] == "required_models or default_model: not served: fragile, third"
        assert (
            "not ready: required_models or default_model names models that are not served: fragile, third"
            in caplog.text
        )
        assert "ready" not in caplog.messages
        assert service.client.get("/health/live").status_code == 200
        assert service.client.get("/v2/health/ready").status_code == service.client.get("/ping").status_code == 503
        assert service.classify(model="other").status_code == 200
        assert service.metric("aaserve_models_missing") == 2
        for name in ("fragile", "third"):
            write_fragile_bundle(repository, name=name, version="3")
            service.change("load", name)
        assert service.client.get("/health/ready").status_code == 200
        service.change("unload", "third")
        assert service.client.get("/health/ready").status_code == 503
        assert service.metric("aaserve_models_missing") == 1
    with serving(repository, required_models="") as service:
        assert service.client.get("/health/ready").status_code == 200
    with pytest.raises(ValueError, match="required_models"):
        Settings(required_models="a b")


def test_a_version_that_a_worker_replaced_does_not_count_as_one_that_does_not_answer(tmp_path: Path) -> None:
    """Its series stays in the file that the workers share, so its value must be none that alerts look for."""
    script = (
        "import types, prometheus_client; from aaserve.service.observability.metrics import Metrics\n"
        "def version(number):\n"
        "    manifest = types.SimpleNamespace(version=number, task='classification', precision='fp32')\n"
        "    manifest.files = {'model.onnx': 'x'}\n"
        "    figures = {'provider': 'CPUExecutionProvider', 'ready': True, 'queue_depth': 0, 'queue_capacity': 1}\n"
        "    return types.SimpleNamespace(manifest=manifest, on_cpu=True, agreement=None, **figures)\n"
        "metrics = Metrics(0)\n"
        "metrics.watch_model('m', [version('1')]); metrics.watch_model('m', [version('2')]); metrics.refresh()\n"
        "print(prometheus_client.generate_latest(metrics.registry).decode())\n"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert 'aaserve_model_ready{model="m",version="1"} NaN' in done.stdout, done.stderr
    assert 'aaserve_model_ready{model="m",version="2"} 1.0' in done.stdout
