"""The OpenAPI document, corrected where FastAPI has no word for what we do."""

from typing import Any

from fastapi import FastAPI

from aaserve.service.http.error_forms import PROBLEM_TYPE
from aaserve.service.http.schemas import Problem

_PROBLEM = f"#/components/schemas/{Problem.__name__}"


class Application(FastAPI):
    """FastAPI whose document says which media type errors have."""

    def openapi(self) -> dict[str, Any]:
        """Return the document; made once."""
        if self.openapi_schema is None:
            for operations in super().openapi()["paths"].values():
                for operation in operations.values():
                    for response in operation["responses"].values():
                        _name_problems(response.get("content", {}))
        assert self.openapi_schema is not None
        return self.openapi_schema


def _name_problems(content: dict[str, Any]) -> None:
    """FastAPI lists every model as the media type of the route's answers."""
    if content.get("application/json", {}).get("schema", {}).get("$ref") == _PROBLEM:
        content[PROBLEM_TYPE] = content.pop("application/json")
