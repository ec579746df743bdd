"""Which pages may ask from a browser, with which headers, and what they may read of an answer (CORS).

setting cors_origins --normal_origins--> as browsers write origins, which are compared letter by letter
"""

import ipaddress
import re

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
_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_EXPECTED = "expected https://HOST[:PORT], several separated by commas, or *"


def normal_origins(text: str) -> str:
    """Write origins, separated by commas, as browsers do: lower case, no default port, no slash at the end.

    Raises:
        ValueError: says what is no origin.
    """
    if text.strip() in ("", "*"):
        return text.strip()
    return ",".join(dict.fromkeys(_normal(origin.strip()) for origin in text.split(",")))


def _normal(origin: str) -> str:
    if not origin.isascii():
        raise ValueError(f"{origin!r} is not ASCII; write the host as browsers send it, beginning with xn--")
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(f"{_EXPECTED}; {origin!r} is no origin")
    scheme, host, port = match[1].lower(), match[2].lower(), match[3]
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError as error:
            raise ValueError(f"{_EXPECTED}; {origin!r} has no valid IPv6 address") from error
    if port is None or int(port) == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    if int(port) > 65535:
        raise ValueError(f"{_EXPECTED}; {origin!r} has no valid port")
    return f"{scheme}://{host}:{int(port)}"
