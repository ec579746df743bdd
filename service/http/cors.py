"""What pages of other origins may send and read, and the headers that say so in answers that no middleware sees."""

from aaserve.service.settings import Settings

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")  # 405, which a page can read, says which are not
REQUEST_HEADERS = (
    "Authorization",
    "Content-Encoding",
    "If-None-Match",
    "Inference-Header-Content-Length",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    "baggage",
    "traceparent",
    "tracestate",
)  # beside Accept and Content-Type, which are always allowed
RESPONSE_HEADERS = (
    "Accept-Encoding",
    "Allow",
    "Content-Encoding",
    "ETag",
    "Inference-Header-Content-Length",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-ID",
    "traceresponse",
)


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
