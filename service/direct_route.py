"""FastAPI's route without its general machinery: for requests whose body the route reads itself.

path, query, headers --> each parameter checked by FastAPI's own field --> the route's function

What FastAPI does for bodies, dependencies and response models takes a quarter of the HTTP way of a request
(benchmarks/NOTES.md), and these routes use none of it. Their description in OpenAPI and their errors stay FastAPI's.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class DirectRoute(APIRoute):
    """A route of `async def (request, …) -> Response`, where … are single values of path, query or headers.

    Raises:
        TypeError: it takes something else, or a value outside the path has no default.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint, takes = self.endpoint, self.dependant
        if takes.dependencies or takes.body_params or takes.cookie_params or takes.request_param_name != "request":
            raise TypeError(f"{self.path}: expected a request, and parameters of path, query and headers only")
        if any(field.field_info.is_required() for field in (*takes.query_params, *takes.header_params)):
            raise TypeError(f"{self.path}: expected a default for each parameter that is not in the path")

        async def handle(request: Request) -> Response:
            values: dict[str, Any] = {}
            errors: list[Any] = []
            for place, fields, received in (
                ("path", takes.path_params, request.path_params),
                ("query", takes.query_params, request.query_params),
                ("header", takes.header_params, request.headers),
            ):
                for field in fields:
                    text = received.get(field.alias)
                    if text is None:
                        values[field.name] = field.default
                    else:
                        values[field.name], wrong = field.validate(text, values, loc=(place, field.alias))
                        errors += wrong
            if errors:
                raise RequestValidationError(errors)
            response: Response = await endpoint(request=request, **values)
            return response

        return handle
