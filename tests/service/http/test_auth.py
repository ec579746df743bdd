"""Keys: who may ask what, how that changes while the service runs, and that no key ends up in a log."""

import hashlib
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from aaserve.service.http.app import create_app
from aaserve.service.http.auth import ANY, OPEN, needs
from aaserve.service.http.keys import Keys
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, ROOT, RunningService, running_service, start_that_fails, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
KEYS = {scope: f"the key for {scope}" for scope in ("infer", "admin", "metrics")}
RAW = {"Content-Type": "application/octet-stream"}

# Every address of the service, and who may ask it. The test fails for a new one until it is added here.
NEEDS = {
    "/": OPEN,
    "/openapi.json": OPEN,
    "/page/examples/{name}": OPEN,
    "/page/models/{name}/{version}/{picture}": ANY,
    "/health/live": OPEN,
    "/health/ready": OPEN,
    "/v2/health/live": OPEN,
    "/v2/health/ready": OPEN,
    "/ping": OPEN,
    "/metrics": "metrics",
    "/models": ANY,
    "/models/{name}": ANY,
    "/v2": ANY,
    "/v2/models": ANY,
    "/v2/models/stats": ANY,
    "/v2/models/{model}": ANY,
    "/v2/models/{model}/config": ANY,
    "/v2/models/{model}/ready": ANY,
    "/v2/models/{model}/stats": ANY,
    "/v2/models/{model}/versions": ANY,
    "/v2/models/{model}/versions/{version}": ANY,
    "/v2/models/{model}/versions/{version}/config": ANY,
    "/v2/models/{model}/versions/{version}/ready": ANY,
    "/v2/models/{model}/versions/{version}/stats": ANY,
    "/v2/repository/index": ANY,
    "/classify": "infer",
    "/classify/batch": "infer",
    "/detect": "infer",
    "/detect/batch": "infer",
    "/explain": "infer",
    "/predictions/{model}": "infer",
    "/predictions/{model}/{version}": "infer",
    "/v2/models/{model}/infer": "infer",
    "/v2/models/{model}/versions/{version}/infer": "infer",
    "/admin/models/{name}/load": "admin",
    "/admin/models/{name}/rollback": "admin",
    "/admin/models/{name}/unload": "admin",
    "/v2/repository/models/{model}/load": "admin",
    "/v2/repository/models/{model}/unload": "admin",
}


def lines(*pairs: tuple[str, str]) -> str:
    return "".join(f"{scope} {hashlib.sha256(key.encode()).hexdigest()}\n" for scope, key in pairs)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes_of(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        included = getattr(route, "original_router", None)  # FastAPI keeps routers whole
        yield from routes_of(included.routes) if included else [route]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("# who\n" + lines(*KEYS.items()))
    with running_service("--api-keys-file", str(path)) as running:
        yield running


def test_every_address_has_a_decided_permission() -> None:
    routes = list(routes_of(create_app(Settings(_cli_parse_args=[])).routes))
    assert {route.path for route in routes} == set(NEEDS)
    assert all(isinstance(route, Route) for route in routes)  # no other application and no websocket beside the door


@pytest.mark.parametrize("path", NEEDS)
def test_every_address_wants_its_key_and_no_other(keyed: RunningService, path: str) -> None:
    """Models that do not exist: a request with the right key is told so."""
    address = path.format(name="none", model="none", version="7", picture="reference-1.png")
    needed = NEEDS[path]
    assert needs(address) == needed
    method = "POST" if needed in ("infer", "admin") or path == "/v2/repository/index" else "GET"
    for scope, key in {"": "", **KEYS}.items():
        answer = keyed.client.request(method, address, headers=bearer(key) if key else {})
        if needed in (OPEN, scope) or (needed == ANY and scope):
            assert answer.status_code not in (401, 403)
        elif scope:
            assert answer.status_code == 403
            assert f"this key is not for {needed}" in answer.text
        else:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="aaserve"'


def test_head_wants_the_key_of_get_and_options_wants_none(keyed: RunningService) -> None:
    for path in ("/metrics", "/models"):
        head = keyed.client.head(path)
        assert (head.status_code, head.headers["WWW-Authenticate"]) == (401, 'Bearer realm="aaserve"')
        assert keyed.client.head(path, headers=bearer(KEYS["metrics"])).status_code == 200
    assert keyed.client.head("/metrics", headers=bearer(KEYS["infer"])).status_code == 403
    for path in ("/metrics", "/classify", "/admin/models/none/load"):
        assert keyed.client.options(path).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEYS["infer"]},
        {"Authorization": f"Basic {KEYS['infer']}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEYS['infer']}x"},
        {"Authorization": f"Bearer {KEYS['infer'][:-1]}"},
        {"Authorization": f"Bearer {hashlib.sha256(KEYS['infer'].encode()).hexdigest()}"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-API-Key": KEYS["infer"]},
    ],
)
def test_nothing_but_the_key_opens(keyed: RunningService, headers: dict) -> None:
    assert keyed.client.post("/classify", content=JPEG, headers=RAW | headers).status_code == 401
    assert keyed.client.post("/classify", params={"key": KEYS["infer"]}, content=JPEG, headers=RAW).status_code == 401


def test_the_scheme_of_a_key_is_case_insensitive(keyed: RunningService) -> None:
    for scheme in ("Bearer", "bearer", "BEARER "):
        headers = RAW | {"Authorization": f"{scheme} {KEYS['infer']}"}
        assert keyed.client.post("/classify", content=JPEG, headers=headers).status_code == 200


def test_another_spelling_of_an_address_opens_nothing(keyed: RunningService) -> None:
    for path in ("/metrics%0A", "/%6detrics", "//metrics", "/metrics/", "/./metrics"):
        answer = httpx.get(
            f"{keyed.client.base_url}{path}", headers=bearer(KEYS["infer"]), follow_redirects=True, timeout=60
        )
        assert answer.status_code in (403, 404), path
        assert "aaserve_" not in answer.text
    assert keyed.client.post("/admin/models/x/load%0A", headers=bearer(KEYS["infer"])).status_code == 403
    assert keyed.client.post("/Admin/models/x/load", headers=bearer(KEYS["infer"])).status_code == 404


def test_each_address_refuses_in_its_own_form(keyed: RunningService) -> None:
    problem = keyed.client.post("/classify")
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert problem.json()["code"] == "unauthorized"
    assert problem.json()["request_id"] == problem.headers["X-Request-ID"]
    protocol = keyed.client.post("/v2/models/aa-cifar100/infer")
    assert protocol.json() == {"error": "a key is needed: Authorization: Bearer KEY"}
    torchserve = keyed.client.post("/predictions/aa-cifar100")
    assert torchserve.json().keys() == {"code", "type", "message"}
    assert (torchserve.json()["code"], torchserve.json()["type"]) == (401, "InvalidKeyException")


def test_two_keys_are_one_too_many(keyed: RunningService) -> None:
    """A proxy may have looked at the other one."""
    twice = [("Authorization", f"Bearer {KEYS['infer']}"), ("Authorization", "Bearer another")]
    for headers in (twice, twice[::-1], twice[:1] * 2):
        answer = keyed.client.get("/models", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_refusal_comes_before_a_byte_of_the_body_is_read(keyed: RunningService) -> None:
    address = (keyed.client.base_url.host, keyed.client.base_url.port)
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_keys_change_while_the_service_runs_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(lines(("infer", "old")))

    def status(key: str) -> int:
        return service.client.get("/models", headers=bearer(key)).status_code

    with running_service("--api-keys-file", str(path)) as service:
        assert (status("old"), status("new")) == (200, 401)
        path.write_text(lines(("infer", "old"), ("infer", "new")))
        assert (status("old"), status("new")) == (200, 200)
        path.write_text(lines(("metrics", "new")))
        assert (status("old"), status("new")) == (401, 200)
        assert service.client.post("/classify", headers=bearer("new")).status_code == 403
        for broken in ("infer the-plain-key\n", "", "# empty\n", lines(("root", "new")), "\0"):
            path.write_text(broken)
            assert (status("old"), status("new")) == (401, 200), broken
        path.write_bytes(b"\xff\xfe\xff")
        assert status("new") == 200
        path.unlink()
        assert (status("old"), status("new")) == (401, 200)
        wait_until(lambda: any("No such file" in line for line in service.log))
        complaints = [line for line in service.log if "the keys stay as they were" in line]
        assert len(complaints) == 7  # each of them once, however many have asked
        assert "in line 1" in complaints[0]
        assert "No such file" in complaints[-1]
        path.write_text(lines(("infer", "old")))
        assert (status("old"), status("new")) == (200, 401)
        service.stop()
        assert not [line for line in service.log if "plain-key" in line or hashlib.sha256(b"new").hexdigest() in line]


def test_new_keys_reach_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(lines(("infer", "old")))
    with running_service("--api-keys-file", str(path), "--workers", "2", "--host", "0.0.0.0") as service:
        wait_until(lambda: sum("ready" in line for line in service.log) >= 2)
        path.write_text(lines(("infer", "new")))
        address = f"{service.client.base_url}/models"  # each on a connection of its own, so that both are asked
        assert {httpx.get(address, headers=bearer("old"), timeout=60).status_code for _ in range(16)} == {401}
        assert {httpx.get(address, headers=bearer("new"), timeout=60).status_code for _ in range(16)} == {200}
    assert not [line for line in service.log if "no api_keys_file is set" in line]


def test_refusals_are_counted_and_no_key_is_logged(keyed: RunningService) -> None:
    for key in ("wrong key", KEYS["metrics"]):
        keyed.client.post("/classify", headers=bearer(key))
    text = keyed.client.get("/metrics", headers=bearer(KEYS["metrics"])).text
    assert 'aaserve_rejected_total{reason="unauthorized"}' in text
    assert 'aaserve_rejected_total{reason="forbidden"}' in text
    wait_until(lambda: any("forbidden" in line for line in keyed.log))
    assert not [key for key in ("wrong key", *KEYS.values()) if key in "".join(keyed.log)]


def test_without_keys_all_is_open_but_changes(service: RunningService) -> None:
    for path in ("/models", "/metrics", "/v2/models", "/v2/models/aa-cifar100"):
        assert service.client.get(path).status_code == 200
    assert service.classify(JPEG).status_code == 200
    assert service.client.post("/admin/models/x/load").status_code == 403
    assert service.client.post("/v2/repository/models/x/unload").status_code == 403


def test_a_service_without_keys_on_a_public_address_warns_once(service: RunningService) -> None:
    with running_service("--host", "0.0.0.0", "--workers", "2") as elsewhere:
        wait_until(lambda: sum("ready" in line for line in elsewhere.log) == 2)  # each worker that takes connections
        assert elsewhere.classify(JPEG).status_code == 200
    assert sum("no api_keys_file is set" in line for line in elsewhere.log) == 1
    assert not [line for line in service.log if "no api_keys_file is set" in line]


def test_a_file_without_any_key_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    status, stderr = start_that_fails("--api-keys-file", str(tmp_path / "keys"))
    assert (status, len(stderr.splitlines())) == (1, 1)
    assert "expected at least one key, found none" in stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_documented_command_makes_a_key(tmp_path: Path) -> None:
    [command] = re.findall(r"^\$ (key=\$\(openssl .*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    made = [
        subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    keys = Keys(tmp_path / "keys")
    for each in made:
        assert keys.scopes(each.stdout.strip().encode()) == {"infer", "admin"}
    assert keys.scopes(b"") == set()
