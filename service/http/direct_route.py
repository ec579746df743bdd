"""Routes that read their own bodies, without the work that FastAPI does for bodies, dependencies and response models.

path, query, headers --> each parameter checked by FastAPI's own field --> the route's function

These routes use none of that work, and it costs a photograph on the shipped network a tenth of its throughput (decision
0026). Their description in OpenAPI and their errors stay FastAPI's.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from aaserve.service.errors import InvalidParameter
from aaserve.service.http.parameter_names import check_query

Handle = Callable[[Request], Coroutine[Any, Any, Response]]
OnError = Callable[[Request, Exception], Awaitable[Response]]
_NO_QUERY: ImmutableMultiDict[str, str] = ImmutableMultiDict()


class DirectRoute(APIRoute):
    """A route of `async def (request, …) -> Response`, where … are single values of path, query or headers.

    Refuses what FastAPI would ignore: a name in the query that resembles a parameter's, and values that differ.

    Raises:
        TypeError: it takes something else, or a value outside the path has no default.
    """

    def get_route_handler(self) -> Handle:
        endpoint, takes = self.endpoint, self.dependant
        if takes.dependencies or takes.body_params or takes.cookie_params or takes.request_param_name != "request":
            raise TypeError(f"{self.path}: expected a request, and parameters of path, query and headers only")
        if any(field.field_info.is_required() for field in (*takes.query_params, *takes.header_params)):
            raise TypeError(f"{self.path}: expected a default for each parameter that is not in the path")

        defaults = {field.name: field.default for field in (*takes.query_params, *takes.header_params)}
        in_query = [field.alias for field in takes.query_params]
        in_path = [field.alias for field in takes.path_params]

        async def handle(request: Request) -> Response:
            values: dict[str, Any] = dict(defaults)
            errors: list[Any] = []
            query = request.query_params if request.scope["query_string"] else _NO_QUERY
            check_query(query, in_query, in_path)
            for place, fields, texts_of in (
                ("path", takes.path_params, lambda name: [request.path_params[name]]),
                ("query", takes.query_params, query.getlist),
                ("header", takes.header_params, request.headers.getlist),
            ):
                for field in fields:
                    texts = texts_of(field.alias)
                    if len(set(texts)) > 1:
                        raise InvalidParameter(f"{field.alias} is given more than once, with different values")
                    if texts:
                        values[field.name], wrong = field.validate(texts[0], values, loc=(place, field.alias))
                        errors += wrong
            if errors:
                raise RequestValidationError(errors)
            response: Response = await endpoint(request=request, **values)
            return response

        return handle


class DirectRoutes:
    """Pure ASGI middleware, the innermost: answers at the direct routes whose path is fixed, which needs no search.

    Args:
        app: answers everywhere else.
        routes: of the application, of any kind.
        on_error: the application's exception handlers, by class.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], on_error: dict[type[Exception], OnError]) -> None:
        self._app = app
        self._on_error = on_error
        self._routes: dict[tuple[str, str], tuple[DirectRoute, Handle]] = {}
        for route in routes:
            if isinstance(route, DirectRoute) and not route.param_convertors:
                handle = route.get_route_handler()
                for method in route.methods or ():
                    self._routes.setdefault((method, route.path), (route, handle))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], handle = found
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
        except Exception as error:
            on_error = next((answer for kind, answer in self._on_error.items() if isinstance(error, kind)), None)
            if on_error is None:
                raise
            response = await on_error(request, error)
        await response(scope, receive, send)
