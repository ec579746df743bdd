"""The headers that let a page of another origin read an answer, for answers that no middleware sees."""

from service.origins import RESPONSE_HEADERS
from service.settings import Settings


def cors_headers(origin: str | None, settings: Settings) -> list[tuple[bytes, bytes]]:
    """The headers for a request with this `Origin`, as Starlette's CORSMiddleware sets them; none if CORS is off."""
    if not settings.cors_origins:
        return []
    allowed = settings.cors_origins.split(",")
    headers = [(b"vary", b"Origin")]
    if origin is not None and (origin in allowed or "*" in allowed):
        headers += [
            (b"access-control-allow-origin", b"*" if "*" in allowed else origin.encode("latin-1")),
            (b"access-control-expose-headers", ", ".join(RESPONSE_HEADERS).encode()),
        ]
    return headers


def origin_of(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The `Origin` among a request's headers, whose names are in lower case."""
    return next((value.decode("latin-1") for name, value in headers if name == b"origin"), None)
