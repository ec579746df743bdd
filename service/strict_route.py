"""FastAPI's route, and an error for parameters that FastAPI would ignore.

query, headers --misspelt, misplaced, or repeated with another value--> 422
               --otherwise--> FastAPI checks each parameter --> the route's function
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.errors import InvalidParameter
from service.parameter_names import check_query


class StrictRoute(APIRoute):
    """A route that answers a request as FastAPI does, unless the client would get something it did not mean."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        in_query = [field.alias for field in self.dependant.query_params]
        in_path = [field.alias for field in self.dependant.path_params]
        in_headers = [field.alias for field in self.dependant.header_params]

        async def handle_strictly(request: Request) -> Response:
            """Answer the request.

            Raises:
                InvalidParameter: a name in the query resembles a parameter's, or two values of one name differ.
            """
            check_query(request.query_params, in_query, in_path)
            for names, values_of in ((in_query, request.query_params.getlist), (in_headers, request.headers.getlist)):
                for name in names:
                    if len(set(values_of(name))) > 1:
                        raise InvalidParameter(f"{name} is given more than once, with different values")
            return await handle(request)

        return handle_strictly
