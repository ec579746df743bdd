"""Routes that refuse what FastAPI would ignore, and otherwise answer as FastAPI does."""

import asyncio
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Header, Query, Request
from starlette.responses import JSONResponse, Response

from service.errors import InvalidParameter
from service.strict_route import StrictRoute

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
    ours, theirs = application(route_class=StrictRoute), application()
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
    app = application(route_class=StrictRoute)
    app.add_exception_handler(InvalidParameter, refused)
    answer = request("GET", app, f"/7?{query}", headers)
    assert (answer.status_code, answer.json()) == (422, {"detail": words})
