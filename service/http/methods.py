"""HEAD, OPTIONS and the header Allow, in one place for all routes (RFC 9110, sections 9.3.2 and 9.3.7).

HEAD    --> the answer to GET; the server sends its status and headers, and no body
OPTIONS --> 204 with Allow, for an address that has a route; it needs no key and reads no body
"""

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Methods:
    """Pure ASGI middleware, around the routes and what guards them.

    Args:
        routes: of the application, of any kind.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        routes = routes_at(self._routes, scope)
        if scope["method"] == "OPTIONS" and routes:
            scope["route"] = routes[0]
            await Response(status_code=204, headers={"Allow": allowed(routes)})(scope, receive, send)
        elif scope["method"] == "HEAD" and "GET" in methods_of(routes):
            # A copy: the server below must still see HEAD, so that it leaves the body out.
            get = {**scope, "method": "GET"}
            try:
                await self._app(get, receive, send)
            finally:
                scope["route"] = get.get("route")  # for the metrics
        else:
            await self._app(scope, receive, send)


def routes_at(routes: Sequence[BaseRoute], scope: Scope) -> list[Route]:
    """The routes of this path, for all methods."""
    return [route for route in routes if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE]


def methods_of(routes: Sequence[Route]) -> set[str]:
    """The methods that the routes themselves answer."""
    return {method for route in routes for method in route.methods or ()}


def allowed(routes: Sequence[Route]) -> str:
    """The value of Allow for an address with these routes."""
    methods = methods_of(routes) | {"OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))
