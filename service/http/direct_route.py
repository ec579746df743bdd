"""Routes that read their own bodies, without the work that FastAPI does for bodies, dependencies and response models.

path, query, headers --> each parameter checked by FastAPI's own field --> the route's function

These routes use none of that work (decisions 0026 and 0034). Their description in OpenAPI and their errors stay
FastAPI's.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from aaserve.service.errors import InvalidParameter
from aaserve.service.http.params import check_query

Handle = Callable[[Request], Coroutine[Any, Any, Response]]
OnError = Callable[[Request, Exception], Awaitable[Response]]


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
            given = [("path", field, [request.path_params[field.alias]]) for field in takes.path_params]
            if request.scope["query_string"]:
                query = request.query_params
                check_query(query, in_query, in_path)
                given += [("query", field, query.getlist(field.alias)) for field in takes.query_params]
            given += [("header", field, request.headers.getlist(field.alias)) for field in takes.header_params]
            for place, field, texts in given:
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
    """Pure ASGI middleware, the innermost: answers at the direct routes; FastAPI describes them and answers elsewhere.

    Args:
        app: answers everywhere else.
        routes: of the application, of any kind.
        on_error: the application's exception handlers, by class.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], on_error: dict[type[Exception], OnError]) -> None:
        self._app = app
        self._on_error = on_error
        self._by_path: dict[tuple[str, str], tuple[DirectRoute, Handle]] = {}
        self._with_parameters: dict[str, list[tuple[DirectRoute, Handle]]] = {}  # method --> routes
        for route in routes:
            if isinstance(route, DirectRoute):
                handle = route.get_route_handler()
                for method in route.methods or ():
                    if route.param_convertors:
                        self._with_parameters.setdefault(method, []).append((route, handle))
                    else:
                        self._by_path.setdefault((method, route.path), (route, handle))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self._find(scope) if scope["type"] == "http" else None
        if handle is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await handle(request)
        except Exception as error:
            on_error = next((answer for kind, answer in self._on_error.items() if isinstance(error, kind)), None)
            if on_error is None:
                raise
            response = await on_error(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> Handle | None:
        """The handler of a request; its route and parameters of the path are noted in the scope."""
        if found := self._by_path.get((scope["method"], scope["path"])):
            scope["route"], handle = found
            return handle
        for route, handle in self._with_parameters.get(scope["method"], ()):
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                scope.update(child_scope)
                return handle
        return None
