"""Routes whose parameters are checked without FastAPI's machinery answer as if they were not."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from starlette.responses import JSONResponse, Response

from aaserve.service.errors import InvalidParameter
from aaserve.service.http.direct_route import DirectRoute, DirectRoutes

QUERIES = ["", "flag=yes", "size=9&flag=1", "size=0", "size=", "size=1&size=1", "size=x&flag=2", "other=1"]


async def echo(
    request: Request,
    number: int,
    flag: bool = False,
    size: Annotated[int | None, Query(ge=1, le=9)] = None,
    wait: Annotated[float | None, Header(alias="X-Wait", gt=0)] = 1.5,
) -> Response:
    return JSONResponse({"number": number, "flag": flag, "size": size, "wait": wait})


def application(**options: Any) -> FastAPI:
    router = APIRouter(**options)
    router.add_api_route("/{number}", echo)
    app = FastAPI()
    app.router.routes.extend(router.routes)
    return app


def request(method: str, app: FastAPI, url: str, headers: Any = None) -> httpx.Response:
    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, url, headers=headers)

    return asyncio.run(answer())


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/7", "/x"])
@pytest.mark.parametrize("headers", [{}, {"x-wait": "2"}, {"X-Wait": "-1"}])
def test_answers_errors_and_the_openapi_document_are_fastapis(path: str, query: str, headers: dict[str, str]) -> None:
    ours, theirs = application(route_class=DirectRoute), application()
    answer, expected = (request("GET", app, f"{path}?{query}", headers) for app in (ours, theirs))
    assert (answer.status_code, answer.json()) == (expected.status_code, expected.json())
    assert ours.openapi() == theirs.openapi()


async def refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


@pytest.mark.parametrize(
    ("query", "headers", "words"),
    [
        ("size=1&size=2", [], "size is given more than once, with different values"),
        ("size=1", [("X-Wait", "1"), ("X-Wait", "2")], "X-Wait is given more than once, with different values"),
        ("Size=1", [], "unknown parameter 'Size'; did you mean 'size'?"),
        ("flags=1", [], "unknown parameter 'flags'; did you mean 'flag'?"),
        ("number=8", [], "number is part of the path here, and not of the query"),
        ("numbers=8", [], "unknown parameter 'numbers'; did you mean 'number' in the path?"),
        ("top_k=8", [], "top_k is not a parameter of this address"),
    ],
)
def test_a_parameter_that_fastapi_would_ignore_is_refused(
    query: str, headers: list[tuple[str, str]], words: str
) -> None:
    app = application(route_class=DirectRoute)
    app.add_exception_handler(InvalidParameter, refused)
    answer = request("GET", app, f"/7?{query}", headers)
    assert (answer.status_code, answer.json()) == (422, {"detail": words})


async def with_body(request: Request, body: dict[str, Any]) -> Response: ...


async def with_dependency(request: Request, found: Annotated[int, Depends(lambda: 7)]) -> Response: ...


async def with_required(request: Request, size: int) -> Response: ...


async def without_request(size: int = 1) -> Response: ...


@pytest.mark.parametrize("function", [with_body, with_dependency, with_required, without_request])
def test_direct_route_rejects_bodies_dependencies_and_required_parameters(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="/anything: expected"):
        APIRouter(route_class=DirectRoute).add_api_route("/anything", function, methods=["POST"])


async def fails(request: Request, how: str = "") -> Response:
    if how == "known":
        raise Teapot("short and stout")
    if how == "unknown":
        raise ZeroDivisionError
    return JSONResponse({"route": request.scope["route"].path})


class Pot(Exception):
    pass


class Teapot(Pot):
    pass


async def on_pot(request: Request, error: Exception) -> Response:
    return JSONResponse({"pot": str(error), "path": request.url.path}, 418)


def with_fixed_path(*, direct: bool) -> FastAPI:
    router = APIRouter(route_class=DirectRoute)
    router.add_api_route("/fails", fails, methods=["POST"])
    app = FastAPI()
    app.router.routes.extend(router.routes)
    app.add_exception_handler(Pot, on_pot)
    if direct:
        app.add_middleware(DirectRoutes, routes=app.router.routes, on_error={Pot: on_pot})
    return app


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("url", ["/fails", "/fails?how=known", "/fails?how=known&how=known", "/fails/", "/other"])
def test_a_route_with_a_fixed_path_answers_as_if_it_were_searched_for(method: str, url: str) -> None:
    ours, theirs = (request(method, with_fixed_path(direct=direct), url) for direct in (True, False))
    assert (ours.status_code, ours.content, ours.headers) == (theirs.status_code, theirs.content, theirs.headers)


def test_an_error_without_a_handler_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        request("POST", with_fixed_path(direct=True), "/fails?how=unknown")
