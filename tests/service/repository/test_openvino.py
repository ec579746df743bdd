"""`--provider openvino` over HTTP, and what is refused before there is HTTP."""

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from aaserve.service.engine.runtime import openvino_runtime
from aaserve.service.errors import LoadFailed
from aaserve.service.process.supervisor import HUNG
from aaserve.service.repository.model_settings import read_model_settings
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, RunningService, running_service, start_that_fails, wait_until
from tests.service.repository.serving import serving
from tests.toy_bundles import HANGS, picture, write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def install(repository: Path, name: str = "aa-cifar100", settings: str = "") -> None:
    """The small model in `repository`, with its own serving.toml."""
    shutil.copytree(REPOSITORY / "aa-cifar100" / "1", repository / "aa-cifar100" / "1")
    if settings:
        (repository / name / "serving.toml").write_text(settings)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    repository = tmp_path_factory.mktemp("repository")
    install(repository)
    write_fragile_bundle(repository)
    (repository / "fragile" / "serving.toml").write_text('provider = "cpu"\n')
    options = ("--provider", "openvino", "--default-model", "aa-cifar100", "--intra-op-num-threads", "2")
    with running_service(*options, repository=repository) as running:
        yield running


def test_a_picture_gets_the_answer_that_it_gets_from_onnx_runtime(service: RunningService) -> None:
    with running_service("--provider", "cpu") as other:
        expected = other.classify(JPEG, top_k=5).json()["predictions"]
    found = service.classify(JPEG, top_k=5).json()["predictions"]
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in expected], abs=1e-4)


def test_one_service_has_models_in_both_runtimes_and_names_them(service: RunningService) -> None:
    assert service.classify(picture(1), model="fragile").json()["predictions"][0]["label"] == "b"
    for name, provider in (("aa-cifar100", "OpenVINO"), ("fragile", "CPUExecutionProvider")):
        [version] = service.client.get(f"/models/{name}").json()["versions"]
        assert version["provider"] == provider
        assert "lower_precision" not in version
        assert service.metric("aaserve_model_info", model=name, provider=provider) == 1
    config = service.client.get("/v2/models/aa-cifar100/config").json()
    assert (config["backend"], config["platform"]) == ("openvino", "openvino_onnx")
    assert service.client.get("/v2/models/fragile").json()["platform"] == "onnxruntime_onnx"
    assert "aaserve_gpu" not in service.client.get("/metrics").text


def test_attention_is_shown(service: RunningService) -> None:
    answer = service.client.post("/explain", content=JPEG, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    assert answer.json()["model"] == "aa-cifar100"


def test_a_new_version_takes_over(service: RunningService, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_fragile_bundle(repository)
    (repository / "fragile" / "serving.toml").write_text('provider = "openvino"\n')
    with running_service(repository=repository) as running:
        assert running.classify(picture(2)).json()["version"] == "1"
        write_fragile_bundle(repository, version="2")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: [line for line in running.log if "reloaded" in line])
        assert running.classify(picture(2)).json()["version"] == "2"
        assert running.metric("aaserve_model_info", version="2", provider="OpenVINO") == 1


def test_bf16_is_said_in_the_log_on_the_card_and_in_metrics(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    if not openvino_runtime.has_bf16():
        pytest.skip("this processor has no instructions for bf16")
    install(tmp_path, settings='provider = "openvino"\ncpu_precision = "bf16"\n')
    with running_service(repository=tmp_path) as running:
        [version] = running.client.get("/models/aa-cifar100").json()["versions"]
        agreement = version["lower_precision"]
        assert (version["precision"], agreement["precision"]) == ("fp32", "bf16")
        assert (agreement["same_best_class"], agreement["pictures"]) == (1, 1)
        assert running.metric("aaserve_lower_precision_agreement", model="aa-cifar100", version="1") == 1
        found = running.metric("aaserve_lower_precision_difference", model="aa-cifar100", version="1")
        assert found == agreement["max_difference"] > 0
        [line] = [line for line in running.log if "has the best class of fp32" in line]
        assert "bf16 has the best class of fp32 for 1 of 1 pictures (the probe, as the bundle has none)" in line
        assert running.classify(JPEG).status_code == 200


def test_a_call_that_hangs_ends_the_process(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    write_fragile_bundle(tmp_path)
    options = ("--provider", "openvino", "--model-call-timeout-ms", "1000")
    with running_service(*options, repository=tmp_path) as running:
        assert running.classify(picture(HANGS)).status_code == 500
        assert running.process.wait(60) == HUNG
    assert any("a model call took more than 1 s" in line for line in running.log)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cpu-precision", "bf16"), "error: --cpu-precision bf16: expected provider openvino, found auto"),
        (
            ("--cpu-precision", "bf16", "--provider", "cpu"),
            "error: --cpu-precision bf16: expected --provider openvino, found cpu",
        ),
        (("--cpu-precision", "fp8"), "error: --cpu-precision: Input should be 'fp32' or 'bf16', found 'fp8'"),
    ],
)
def test_a_precision_that_the_provider_does_not_have_stops_the_start(options: tuple[str, ...], message: str) -> None:
    status, stderr = start_that_fails(*options)
    assert (status, stderr.splitlines()) == (1, [message])


def test_a_model_cannot_ask_for_a_precision_that_its_provider_does_not_have(tmp_path: Path) -> None:
    install(tmp_path, settings='cpu_precision = "bf16"\n')
    status, stderr = start_that_fails(repository=tmp_path)
    assert status == 1
    assert stderr.splitlines()[-1] == (
        f"error: {tmp_path}/aa-cifar100/serving.toml: cpu_precision bf16: expected provider openvino, found auto"
    )


def test_the_precision_of_the_service_is_for_its_models_on_openvino(tmp_path: Path) -> None:
    service = Settings(provider="openvino", cpu_precision="bf16")
    for provider, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("openvino", "bf16")):
        (tmp_path / "serving.toml").write_text(f'provider = "{provider}"\n')
        _, settings = read_model_settings(tmp_path, service)
        assert (settings.provider, settings.cpu_precision) == (provider, precision)


def test_an_error_in_a_serving_file_says_what_comes_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["aaserve", "--provider", "cpu", "--cpu-precision", "fp32"])
    for provider, written in (("", "--provider"), ('provider = "cpu"\n', "provider")):
        (tmp_path / "serving.toml").write_text(f'{provider}cpu_precision = "bf16"\n')
        with pytest.raises(LoadFailed) as caught:
            read_model_settings(tmp_path, Settings(provider="cpu"))
        assert str(caught.value) == (
            f"{tmp_path}/serving.toml: cpu_precision bf16: expected {written} openvino, found cpu"
        )


def test_without_the_package_the_start_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['openvino'] = None\n")
    status, stderr = start_that_fails("--provider", "openvino", PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "error: provider: expected the extra openvino (pip install" in stderr.splitlines()[-1]


def _no_openvino() -> NoReturn:
    raise ModuleNotFoundError("No module named 'openvino'", name="openvino")


MISSING = {
    "openvino": ("core", _no_openvino, "provider: expected the extra openvino"),
    "bf16": ("has_bf16", lambda: False, "cpu_precision: expected a processor with instructions for bf16, found none"),
}


@pytest.mark.parametrize(("name", "instead", "reason"), MISSING.values(), ids=MISSING)
def test_what_only_one_model_asks_for_and_is_not_there_fails_that_model_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    instead: Callable[[], object],
    reason: str,
) -> None:
    if name != "core":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr(openvino_runtime, name, instead)
    repository = tmp_path / "repository"
    install(repository)
    write_fragile_bundle(repository)
    own = repository / "fragile" / "serving.toml"
    own.write_text('provider = "openvino"\ncpu_precision = "bf16"\n')
    with serving(repository, strict=True) as (_, app):
        assert app.state.lifecycle.failure.startswith(f"{own}: {reason}")
    with serving(repository) as (client, app):
        assert client.get("/health/ready").status_code == 200
        [failure] = client.get("/models/fragile").json()["failures"]
        assert failure["version"] is None
        assert failure["reason"].startswith(f"fragile/serving.toml: {reason}")
        assert [line for line in caplog.messages if line.startswith(f"{own}: {reason}")]
        caplog.clear()
        asyncio.run(app.state.lifecycle.repository.reload())  # what SIGHUP does
        assert [line for line in caplog.messages if line.startswith(f"{own}: {reason}")]


def test_a_precision_that_the_service_asks_for_and_is_not_there_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr(openvino_runtime, "has_bf16", lambda: False)
    repository = tmp_path / "repository"
    install(repository)
    write_fragile_bundle(repository)
    (repository / "fragile" / "serving.toml").write_text('provider = "cpu"\n')
    with serving(repository, provider="openvino", cpu_precision="bf16") as (_, app):
        assert app.state.lifecycle.failure == MISSING["bf16"][-1]
