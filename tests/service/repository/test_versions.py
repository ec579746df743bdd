"""Which version is served where the newest one is broken, and what metrics, log and readiness say of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.service.settings import Settings
from tests.helpers import ROOT
from tests.service.repository.administration import damage, serving, write_two_models
from tests.toy_bundles import write_fragile_bundle


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_two_models(tmp_path / "repository")


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
