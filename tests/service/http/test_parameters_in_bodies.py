"""Parameters: in the query, in a form or in JSON, with the same checks; what is misspelt or misplaced is refused."""

import base64
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aaserve.service.http.params import ANYWHERE, resembling
from tests.detector_bundle import NAME as DETECTOR
from tests.detector_bundle import write_detector
from tests.full_service import MODEL, full_service
from tests.helpers import EXAMPLES, RunningService, running_service, wait_until
from tests.hostile.wire import connect, send
from tests.toy_bundles import picture, write_fragile_bundle

PNG = picture(1)
JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
RAW = {"Content-Type": "image/png"}
PICTURES = "/v2/models/aa-cifar100:pictures/infer"


def write_models(repository: Path) -> None:
    """`first` in two versions, and `second`; the labels of each say which one answered."""
    for name, version in (("first", "1"), ("first", "2"), ("second", "1")):
        labels = tuple(f"{name}-{version}-{number}" for number in range(4))
        write_fragile_bundle(repository, name=name, version=version, labels=labels)
    (repository / "first" / "serving.toml").write_text('versions = "all"\n')


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("models")
    write_models(repository)
    with running_service(repository=repository) as running:
        yield running


def as_form(**fields: object) -> dict[str, Any]:
    return {"files": {"image": ("a.png", PNG)}, "data": {name: str(value) for name, value in fields.items()}}


def as_json(**fields: object) -> dict[str, Any]:
    return {"json": {"image": f"data:;base64,{encoded(PNG)}", **fields}}


def as_batch(**fields: object) -> dict[str, Any]:
    return {"json": {"images": [encoded(PNG)], **fields}}


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


WAYS = {
    "a form": ("/classify", as_form),
    "JSON": ("/classify", as_json),
    "a batch in a form": ("/classify/batch", as_form),
    "a batch in JSON": ("/classify/batch", as_batch),
}
in_every_body = pytest.mark.parametrize(("path", "body"), WAYS.values(), ids=WAYS)


def labels(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    told = answer.json()
    [result] = told.get("results", [told])
    return [prediction["label"] for prediction in result["predictions"]]


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["code"], answer.json()["detail"]


@in_every_body
def test_a_body_says_what_the_query_may_say(models: RunningService, path: str, body: Any) -> None:
    found = labels(models.client.post(path, **body(model="first", version="1", top_k=2)))
    assert (len(found), found[0]) == (2, "first-1-1")
    assert labels(models.client.post(path, **body(model="second")))[0] == "second-1-1"
    together = models.client.post(path, params={"model": "first", "top_k": 1}, **body(version="1", top_k=1))
    assert labels(together) == ["first-1-1"]


@in_every_body
def test_a_request_without_a_model_name_asks_for_one(models: RunningService, path: str, body: Any) -> None:
    status, code, detail = refused(models.client.post(path, **body()))
    assert (status, code) == (404, "model_not_found")
    assert "several models are served" in detail


@in_every_body
@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"model": "none"}, 404, "model_not_found", "served: first, second"),
        ({"model": "first", "version": "99"}, 404, "model_not_found", "no such version of first"),
        ({"model": "first", "top_k": 0}, 422, "invalid_parameter", "top_k must be 1 or more, found 0"),
        ({"model": "first", "top_k": 5}, 422, "invalid_parameter", "top_k must be 1 to 4 for first, found 5"),
        ({"model": "first", "top_k": "x"}, 422, "invalid_parameter", "top_k is not a whole number"),
        ({"model": "first", "topk": 1}, 422, "invalid_parameter", "unknown field 'topk'; did you mean 'top_k'?"),
        ({"model": "first", "foo": 1}, 422, "invalid_parameter", "unknown field 'foo'; known here: image"),
        ({"model": "first", "layer": 1}, 422, "invalid_parameter", "unknown field 'layer'; known here: image"),
    ],
)
def test_the_checks_are_those_of_the_query(
    models: RunningService, path: str, body: Any, fields: dict[str, Any], status: int, code: str, words: str
) -> None:
    found = refused(models.client.post(path, **body(**fields)))
    assert found[:2] == (status, code)
    assert words in found[2]


@in_every_body
def test_query_and_body_may_not_differ(models: RunningService, path: str, body: Any) -> None:
    for query, field in (({"model": "first"}, {"model": "second"}), ({"top_k": "1"}, {"top_k": 2})):
        answer = models.client.post(path, params={"model": "first", **query}, **body(**field))
        assert refused(answer) == (
            422,
            "invalid_parameter",
            f"{next(iter(field))} is given in the query and in the body, with different values",
        )


@pytest.mark.parametrize("value", [True, 2.0, [2], {"k": 2}], ids=str)
def test_a_value_of_another_type_is_refused(models: RunningService, value: object) -> None:
    answer = models.client.post("/classify", **as_json(model="first", top_k=value))
    assert "top_k must be a string or a whole number" in refused(answer)[2]


def test_null_in_json_is_as_good_as_absent_and_a_version_may_be_a_number(models: RunningService) -> None:
    assert labels(models.client.post("/classify", **as_json(model="first", version=1, top_k=None)))[0] == "first-1-1"


def test_a_field_of_a_form_that_comes_twice_is_one_or_refused(models: RunningService) -> None:
    def answer(*versions: str) -> httpx.Response:
        return models.client.post(
            "/classify", **as_form(model="first") | {"data": {"model": "first", "version": versions}}
        )

    assert labels(answer("1", "1"))[0] == "first-1-1"
    assert refused(answer("1", "2"))[2] == "version is given more than once, with different values"


@pytest.mark.parametrize("path", ["/classify", PICTURES])
def test_a_name_that_comes_twice_in_json_is_one_if_its_short_values_are_the_same(
    service: RunningService, path: str
) -> None:
    picture = encoded(JPEG)
    tensor = json.dumps({"name": "image", "shape": [1], "datatype": "BYTES", "data": [picture]})
    asked = {"/classify": f'"image": "{picture}"', PICTURES: f'"inputs": [{tensor}]'}[path]
    same, other = {"/classify": ("1", "2"), PICTURES: ('"a"', '"b"')}[path]
    name = {"/classify": "top_k", PICTURES: "id"}[path]

    def post(twice: str) -> httpx.Response:
        return service.client.post(path, content=f"{{{twice}}}", headers={"Content-Type": "application/json"})

    assert post(f'{asked}, "{name}": {same}, "{name}": {same}').status_code == 200
    for refusal in (post(f'{asked}, "{name}": {same}, "{name}": {other}'), post(f"{asked}, {asked}")):
        assert refusal.status_code == 400
        assert "more than once" in refusal.text


def test_a_misspelt_wish_for_the_models_that_are_ready_is_refused(service: RunningService) -> None:
    refusal = service.client.post("/v2/repository/index", json={"redy": True})
    assert (refusal.status_code, "did you mean 'ready'?" in refusal.json()["error"]) == (400, True)
    assert service.client.post("/v2/repository/index", json={"repository_name": ""}).status_code == 200


def test_explain_takes_what_its_query_takes(service: RunningService) -> None:
    def post(params: dict[str, str], **fields: object) -> httpx.Response:
        return service.client.post("/explain", params=params, json={"image": encoded(JPEG), **fields})

    asked = {"layer": "layer3.0.conv1", "head": "2", "position": "0.5,0.5"}
    expected = post(asked)
    assert expected.status_code == 200
    assert post({}, layer=asked["layer"], head=2, position=asked["position"]).text == expected.text
    form = service.client.post("/explain", files={"image": JPEG}, data=asked)
    assert form.text == expected.text
    assert refused(post({}, head="9"))[1] == "invalid_parameter"
    assert refused(post({}, top_k=3))[2].startswith("unknown field 'top_k'")


def test_torchserves_form_takes_top_k_and_its_path_the_model(service: RunningService) -> None:
    def post(behind: str = "", **fields: str) -> httpx.Response:
        return service.client.post(f"/predictions/aa-cifar100{behind}", files={"data": JPEG}, data=fields)

    assert len(post("?top_k=2").json()) == len(post(top_k="2").json()) == 2
    assert post(version="99").status_code == 422
    assert post("?version=99").status_code == 404
    assert post("/1?version=99").status_code == 422
    assert "top_k" in post("?topk=2").json()["message"]


QUERIES = [
    ("topk=2", "did you mean 'top_k'?"),
    ("top-k=2", "did you mean 'top_k'?"),
    ("TOP_K=2", "did you mean 'top_k'?"),
    ("modelname=x", "did you mean 'model'?"),
    ("model_version=9", "did you mean 'version'?"),
    ("versions=9", "did you mean 'version'?"),
    ("timeout=5", "send the header X-Request-Timeout-Ms"),
    ("layer=x", "layer is not a parameter of this address"),
    ("top_k=2&top_k=3", "top_k is given more than once, with different values"),
]


@pytest.mark.parametrize(("query", "words"), QUERIES)
def test_a_misspelt_or_misplaced_name_in_the_query_is_refused(service: RunningService, query: str, words: str) -> None:
    for path in ("/classify", "/classify/batch"):
        answer = service.client.post(f"{path}?{query}", content=JPEG, headers=RAW)
        assert refused(answer)[:2] == (422, "invalid_parameter")
        assert words in refused(answer)[2]


@pytest.mark.parametrize(
    "query", ["utm_source=x", "_=1700000000", "cb=1", "v=2", "ver=2", "session=x", "t=1", "fbclid=x", "top_k=5&top_k=5"]
)
def test_what_proxies_and_caches_add_is_ignored(service: RunningService, query: str) -> None:
    answer = service.client.post(f"/classify?{query}", content=JPEG, headers=RAW)
    assert answer.json() == service.classify(JPEG).json()


def test_a_timeout_that_comes_twice_is_one_or_refused(service: RunningService) -> None:
    def answer(*values: str) -> httpx.Response:
        headers = [("Content-Type", "image/jpeg"), *(("X-Request-Timeout-Ms", value) for value in values)]
        return service.client.post("/classify", content=JPEG, headers=headers)

    assert answer("5000", "5000").status_code == 200
    assert refused(answer("5000", "6000"))[2] == "X-Request-Timeout-Ms is given more than once, with different values"


@pytest.mark.parametrize("name", sorted(ANYWHERE))
def test_a_name_resembles_its_variants_and_no_other(name: str) -> None:
    for variant in (name.upper(), name.replace("_", "-"), f"{name}s", f"x_{name}", name[:-1] + name[-1] * 2):
        assert resembling(variant, ANYWHERE) == name
    assert resembling("x" * 10_000 + name, ANYWHERE) is None


def test_ten_thousand_unknown_names_are_not_all_compared(service: RunningService) -> None:
    query = "&".join(f"n{number}" for number in range(6000))
    assert service.client.post(f"/classify?{query}", content=JPEG, headers=RAW).status_code == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": []}, "unknown 'output' in the request; did you mean 'outputs'?"),
        ({"parameters": {"time_out": 1}}, "did you mean 'timeout'?"),
        ({"parameters": {"binary_data": True}}, "did you mean 'binary_data_output'?"),
        ({"outputs": [{"name": "scores", "parameters": {"clasification": 1}}]}, "did you mean 'classification'?"),
    ],
)
def test_the_protocols_own_names_are_checked_and_others_pass(
    service: RunningService, changes: dict[str, Any], words: str
) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded(JPEG)]}
    asked = {"id": "1", "inputs": [tensor], "parameters": {"priority": 1, "sequence_id": 7}, "model_name": "x"}
    assert service.client.post(PICTURES, json=asked).status_code == 200
    refusal = service.client.post(PICTURES, json={**asked, **changes})
    assert (refusal.status_code, words in refusal.json()["error"]) == (400, True)


@pytest.mark.parametrize(("query", "status"), [("model=none", 404), ("top_k=0", 422), ("topk=1", 422)])
def test_a_bad_query_is_refused_before_the_body(models: RunningService, query: str, status: int) -> None:
    assert status_of_a_head(models, f"/classify?{query}") == status


def test_a_request_whose_body_names_the_model_is_refused_early_only_where_no_model_has_room(tmp_path: Path) -> None:
    with full_service(tmp_path) as service:
        busy = service.client.post("/classify", **as_form(model=MODEL))
        assert (busy.status_code, busy.json()["code"]) == (429, "queue_full")
        assert int(busy.headers["retry-after"]) >= 1
        assert status_of_a_head(service, "/classify") == 429

        write_detector(tmp_path)  # which has room, but is not asked here
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.client.get(f"/v2/models/{DETECTOR}/ready").status_code == 200)
        assert status_of_a_head(service, "/classify") == 429

        write_fragile_bundle(tmp_path, name="other")
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.client.get("/v2/models/other/ready").status_code == 200)
        assert service.client.post("/classify", **as_form(model="other")).status_code == 200
        assert service.client.post("/classify", **as_form(model=MODEL)).status_code == 429


def head(path: str, media_type: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: 9\r\n\r\n".encode()


def status_of_a_head(service: RunningService, path: str) -> int:
    """What a request is answered whose body never comes."""
    with connect(service) as connection:
        send(connection, head(path, "application/json"))
        return int(connection.recv(12).split()[1])
