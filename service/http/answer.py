"""What a connection writes in one piece: for requests that it answers without an application."""

from dataclasses import dataclass
from typing import Self

from starlette.responses import Response

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, response: Response) -> Self:
        """As Starlette has it."""
        return cls(response.status_code, list(response.raw_headers), bytes(response.body))
