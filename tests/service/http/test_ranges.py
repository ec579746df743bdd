"""A value out of range is refused with the range, at every address and for every parameter that has one."""

from collections.abc import Iterator

import pytest

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import RunningService

WORDS = {
    "top_k": "must be 1 or more, found -1",
    "max_detections": "must be 1 or more, found -1",
    "score_threshold": "must be 0 to 1, found -1",
    "X-Request-Timeout-Ms": "must be 1 or more, found -1",
}


def bounded_parameters() -> Iterator[tuple[str, str, str, str]]:
    """Method, path, place and name of each parameter that OpenAPI documents with a minimum or a maximum."""
    for path, methods in create_app(Settings(_cli_parse_args=[])).openapi()["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                schemas = parameter["schema"].get("anyOf", [parameter["schema"]])
                if any({"minimum", "maximum"} & schema.keys() for schema in schemas):
                    yield method, path.format(model="aa-cifar100", version="1"), parameter["in"], parameter["name"]


@pytest.mark.parametrize(("method", "path", "place", "name"), list(bounded_parameters()))
def test_a_value_out_of_range_is_refused_with_the_range(
    service: RunningService, method: str, path: str, place: str, name: str
) -> None:
    given = {"params": {name: "-1"}} if place == "query" else {"headers": {name: "-1"}}
    answer = service.client.request(method, path, content=b"x", **given)
    assert answer.status_code == 422
    assert f"{name} {WORDS[name]}" in answer.json().values()


def test_white_space_around_a_value_does_not_get_into_the_message(service: RunningService) -> None:
    answer = service.client.post("/classify", params={"top_k": " -1\n"}, content=b"x")
    assert answer.json()["detail"] == "top_k must be 1 or more, found -1"
