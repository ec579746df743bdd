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


def cors_headers(request: list[tuple[bytes, bytes]], settings: Settings) -> list[tuple[bytes, bytes]]:
    """The headers that Starlette's CORSMiddleware would set; none if CORS is off.

    Args:
        request: headers of the request, with names in lower case.
    """
    if not settings.cors_origins:
        return []
    origin = next((value.decode("latin-1") for name, value in request if name == b"origin"), None)
    allowed = settings.cors_origins.split(",")
    headers = [(b"vary", b"Origin")]
    if origin is not None and (origin in allowed or "*" in allowed):
        headers += [
            (b"access-control-allow-origin", b"*" if "*" in allowed else origin.encode("latin-1")),
            (b"access-control-expose-headers", ", ".join(RESPONSE_HEADERS).encode()),
        ]
    return headers
