"""HEAD, OPTIONS and Allow, at every address that the service has."""

import json

import pytest

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import RunningService
from tests.hostile.wire import connect, received, send

ROUTES = create_app(Settings(_cli_parse_args=[])).routes
METHODS: dict[str, set[str]] = {}
for route in ROUTES:
    METHODS.setdefault(route.path, set()).update(route.methods)
REAL = {"name": "aa-cifar100", "model": "aa-cifar100", "version": "1", "picture": "reference-1.png"}
GETS = [path for path, methods in METHODS.items() if "GET" in methods]


def address(path: str) -> str:
    return "/page/examples/cat.jpg" if path.startswith("/page/examples") else path.format(**REAL)


@pytest.mark.parametrize("path", [*GETS, "/models/none", "/v2/models/none", "/page/examples/none"])
def test_head_tells_what_get_would_without_its_body(service: RunningService, path: str) -> None:
    url = path if path.endswith("/none") else address(path)
    get, head = (service.client.request(method, url) for method in ("GET", "HEAD"))
    varying = {"date", "x-request-id", "server-timing"}
    if path == "/metrics":
        varying.add("content-length")  # numbers become longer
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert {name: value for name, value in head.headers.items() if name not in varying} == {
        name: value for name, value in get.headers.items() if name not in varying
    }
    assert int(head.headers["content-length"]) > 0


def test_a_connection_goes_on_after_head(service: RunningService) -> None:
    with connect(service) as connection:
        send(connection, b"HEAD /models HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        send(connection, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heads = received(connection).split(b"\r\n\r\n")
    assert [head.startswith(b"HTTP/1.1 200 OK") for head in heads[:3]] == [True] * 3
    assert json.loads(heads[3]) == {"state": "ready"}


@pytest.mark.parametrize("path", METHODS)
def test_options_and_a_refusal_name_every_method_of_an_address(service: RunningService, path: str) -> None:
    expected = METHODS[path] | {"OPTIONS"} | ({"HEAD"} if "GET" in METHODS[path] else set())
    options, refused = (service.client.request(method, address(path)) for method in ("OPTIONS", "DELETE"))
    assert (options.status_code, options.content) == (204, b"")
    assert refused.status_code == 405
    for answer in (options, refused):
        assert set(answer.headers["allow"].split(", ")) == expected


def test_an_address_without_get_refuses_head(service: RunningService) -> None:
    head = service.client.head("/classify")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "OPTIONS, POST", b"")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_an_unknown_path_has_no_methods(service: RunningService, method: str) -> None:
    assert service.client.request(method, "/nope").status_code == 404


def test_a_page_that_has_not_changed_is_unchanged_for_head_too(service: RunningService) -> None:
    tag = service.client.head("/").headers["etag"]
    assert service.client.head("/", headers={"If-None-Match": tag}).status_code == 304


def test_they_are_counted_under_their_address(service: RunningService) -> None:
    before = service.metric("aaserve_requests_total", endpoint="/models", code="200")
    service.client.head("/models")
    service.client.options("/models")
    assert service.metric("aaserve_requests_total", endpoint="/models", code="200") == before + 1
    assert service.metric("aaserve_requests_total", endpoint="/models", code="204") >= 1


def test_the_openapi_document_describes_what_a_client_calls(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert {method for operations in paths.values() for method in operations} == {"get", "post", "put"}
