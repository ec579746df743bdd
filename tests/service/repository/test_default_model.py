"""Which model answers a request that names none: a setting, the repository's own word, or the only model there is."""

import base64
import os
import signal
from pathlib import Path

import httpx
import pytest

from aaserve.service.errors import LoadFailed
from aaserve.service.healthcheck import main as healthcheck
from aaserve.service.repository.default_model import only_model, read_default_model
from aaserve.service.settings import Settings
from tests.helpers import RunningService, running_service, start_that_fails, wait_until
from tests.looking_bundle import looking_picture, write_looking_bundle
from tests.service.repository.serving import serving
from tests.toy_bundles import picture, write_fragile_bundle

PNG = picture(3)
SERVING_FILE = "serving.toml"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """big/1 and small/2."""
    repository = tmp_path / "repository"
    write_fragile_bundle(repository, name="big", labels=("A", "B", "C", "D"))
    write_fragile_bundle(repository, name="small", version="2")
    return repository


def ask_in_every_way(client: httpx.Client, **query: str) -> dict[str, httpx.Response]:
    """One picture as a body, a form, JSON and a batch."""
    image = {"image": ("a.png", PNG)}
    text = {"image": base64.b64encode(PNG).decode()}
    raw = {"content": PNG, "headers": {"Content-Type": "image/png"}}
    return {
        "body": client.post("/classify", params=query, **raw),
        "form": client.post("/classify", params=query, files=image),
        "json": client.post("/classify", params=query, json=text),
        "batch": client.post("/classify/batch", params=query, files=[("image", image["image"])] * 2),
    }


def answering(answers: dict[str, httpx.Response]) -> set[str]:
    """The models that answered, or the status."""
    return {answer.json().get("model", str(answer.status_code)) for answer in answers.values()}


def test_the_default_model_answers_every_request_that_names_none(repository: Path) -> None:
    with serving(repository, default_model="small") as (client, _):
        assert answering(ask_in_every_way(client)) == {"small"}
        assert answering(ask_in_every_way(client, model="big")) == {"big"}
        named = client.post("/classify", files={"image": PNG}, data={"model": "big"})
        assert named.json()["model"] == "big"
        assert client.get("/models").json()["default_model"] == "small"


def test_a_version_without_a_name_is_one_of_the_default_model(repository: Path) -> None:
    with serving(repository, default_model="big") as (client, _):
        assert answering(ask_in_every_way(client, version="1")) == {"big"}
        assert answering(ask_in_every_way(client, version="2")) == {"404"}


def test_explain_asks_the_default_model_too(repository: Path) -> None:
    write_looking_bundle(repository)
    picture_of_it = {"content": looking_picture(), "headers": {"Content-Type": "image/png"}}
    with serving(repository, default_model="looking") as (client, _):
        assert client.post("/explain", **picture_of_it).json()["model"] == "looking"
    with serving(repository, default_model="big") as (client, _):
        refused = client.post("/explain", **picture_of_it)
        assert (refused.status_code, refused.json()["code"]) == (404, "no_attention")
        assert client.post("/explain", params={"model": "looking"}, **picture_of_it).status_code == 200


def test_protocols_whose_addresses_name_the_model_reach_each(repository: Path) -> None:
    with serving(repository, default_model="small") as (client, _):
        for model, best in (("big", "D"), ("small", "d")):
            torchserve = client.put(f"/predictions/{model}", content=PNG).json()
            assert max(torchserve, key=torchserve.__getitem__) == best
            image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PNG).decode()]}
            protocol = client.post(f"/v2/models/{model}:pictures/infer", json={"inputs": [image]}).json()
            assert protocol["model_name"] == f"{model}:pictures"


def test_without_a_default_a_request_must_name_one_of_several_models(repository: Path) -> None:
    with serving(repository) as (client, _):
        answers = ask_in_every_way(client)
        assert answering(answers) == {"404"}
        assert {answer.json()["detail"] for answer in answers.values()} == {
            "several models are served; add ?model= with one of big, small"
        }
        assert answering(ask_in_every_way(client, version="2")) == {"404"}
        assert client.get("/models").json()["default_model"] is None


def test_commands_take_the_default_model_or_the_only_one(repository: Path) -> None:
    settings = Settings(repository=repository)
    assert only_model(settings, ["small"]) == "small"
    with pytest.raises(LoadFailed, match=r"several models are in .*; add --model with one of big, small"):
        only_model(settings, ["big", "small"])
    (repository / SERVING_FILE).write_text('default_model = "small"\n')
    assert only_model(settings, ["big", "small"]) == "small"


def test_a_single_model_needs_no_default(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path / "repository")
    with serving(tmp_path / "repository") as (client, _):
        assert answering(ask_in_every_way(client)) == {"fragile"}
        assert client.get("/models").json()["default_model"] == "fragile"


def test_a_repository_may_name_its_default_and_the_setting_overrides_it(repository: Path) -> None:
    (repository / SERVING_FILE).write_text('default_model = "small"\n')
    with serving(repository) as (client, _):
        assert answering(ask_in_every_way(client)) == {"small"}
    with serving(repository, default_model="big") as (client, _):
        assert answering(ask_in_every_way(client)) == {"big"}


def test_no_other_model_answers_for_a_default_that_is_not_loaded(repository: Path) -> None:
    (repository / "big" / "1" / "model.onnx").write_bytes(b"no model")
    with serving(repository, default_model="big") as (client, _):
        answers = ask_in_every_way(client)
        assert answering(answers) == {"404"}
        details = {answer.json()["detail"] for answer in answers.values()}
        assert details == {"the default model, big, is not loaded; served: small"}
        assert client.get("/health/ready").json()["detail"] == "required_models or default_model: not served: big"
        assert answering(ask_in_every_way(client, model="small")) == {"small"}
        write_fragile_bundle(repository, name="big")
        assert client.post("/admin/models/big/load").status_code == 200
        assert answering(ask_in_every_way(client)) == {"big"}
        assert client.get("/health/ready").status_code == 200
        assert client.post("/admin/models/big/unload").status_code == 200
        assert answering(ask_in_every_way(client)) == {"404"}


@pytest.mark.parametrize(
    ("options", "environment", "source"),
    [
        (["--default-model", "resnet"], {}, "--default-model"),
        ([], {"AASERVE_DEFAULT_MODEL": "resnet"}, "AASERVE_DEFAULT_MODEL"),
        (["--workers", "2"], {"AASERVE_DEFAULT_MODEL": "resnet"}, "AASERVE_DEFAULT_MODEL"),
        ([], {}, "serving.toml: default_model"),
    ],
    ids=["option", "variable", "variable with workers", "file"],
)
def test_a_missing_default_model_stops_the_start_in_one_line(
    repository: Path, options: list[str], environment: dict[str, str], source: str
) -> None:
    if source.startswith(SERVING_FILE):
        (repository / SERVING_FILE).write_text('default_model = "resnet"')
        source = f"{repository}/{source}"
    status, said = start_that_fails(*options, repository=repository, **environment)
    assert status == 1
    assert said == f"error: {source}: expected a model of the repository (big, small), found 'resnet'\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"default = 'big'", "default: Extra inputs are not permitted, found 'big'"),
        (b"default_model = 3", "default_model: Input should be a valid string, found 3"),
        (b"default_model", "expected TOML, found: "),
        (b"\xff\xfed\0", "expected UTF-8 text, found UTF-16"),
    ],
)
def test_a_serving_file_of_the_repository_that_is_off_is_refused(
    repository: Path, content: bytes, complaint: str
) -> None:
    (repository / SERVING_FILE).write_bytes(content)
    with pytest.raises(LoadFailed) as refused:
        read_default_model(Settings(repository=repository), ["big", "small"])
    assert str(refused.value).startswith(f"{repository}/{SERVING_FILE}: {complaint}")
    assert "\n" not in str(refused.value)


def test_a_reload_reads_the_default_again_and_keeps_it_where_the_new_one_is_off(repository: Path) -> None:
    (repository / SERVING_FILE).write_text('default_model = "small"\n')

    def reload(service: RunningService) -> None:
        done = sum("aaserve reloaded" in line for line in service.log)
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum("aaserve reloaded" in line for line in service.log) > done)

    with running_service(repository=repository) as service:
        assert any("a request that names no model: answered by small" in line for line in service.log)
        (repository / SERVING_FILE).write_text('default_model = "big"\n')
        reload(service)
        assert service.classify(PNG).json()["model"] == "big"
        (repository / SERVING_FILE).write_text('default_model = "resnet"\n')
        reload(service)
        assert service.classify(PNG).json()["model"] == "big"
        assert any("the default model stays big: " in line and "found 'resnet'" in line for line in service.log)
        (repository / SERVING_FILE).unlink()
        reload(service)
        assert service.classify(PNG).status_code == 404


def test_the_healthcheck_asks_for_no_model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(repository=repository) as service:
        monkeypatch.setenv("AASERVE_PORT", str(service.client.base_url.port))
        assert healthcheck([]) == 0


def test_a_worker_that_replaces_another_starts_with_a_default_that_is_wrong_by_now(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--workers", "2", repository=tmp_path) as service:
        wait_until(lambda: sum(line.rstrip().endswith(" ready") for line in service.log) == 2)
        (tmp_path / "serving.toml").write_text('default_model = "typo"\n')
        supervisor = service.process.pid
        worker = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0])
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: sum(line.rstrip().endswith(" ready") for line in service.log) == 3)
        assert any("there is no default model: " in line for line in service.log)
        assert service.stop() == 0
