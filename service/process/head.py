"""The head of a request: refused where servers and proxies read it in different ways (RFC 9112)."""

import re
from collections.abc import Iterable

from aaserve.service.errors import InvalidRequest

# RFC 3986, section 3.2.2; what a literal address contains does not matter here.
_HOST = re.compile(rb"(?:\[[0-9A-Za-z:._~%-]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
Headers = Iterable[tuple[bytes, bytes]]  # names in lower case


def check_head(version: str, headers: Headers) -> None:
    """Raise InvalidRequest for an unknown version, or a Host that is not one (sections 2.3 and 3.2)."""
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"the request is HTTP/{version}, not HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise InvalidRequest(f"expected one header Host, found {len(hosts) or 'none'}")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise InvalidRequest("the header Host is neither a name nor an address")


def declared_length(headers: Headers) -> int:
    """Bytes of the body, where the head says so; otherwise 0."""
    return int(dict(headers).get(b"content-length", 0))  # the parser refuses a second one


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The same head without `Upgrade`: with it, httptools takes the body for another protocol.

    Raises:
        InvalidRequest: the method is CONNECT.
    """
    if method == b"CONNECT":
        raise InvalidRequest("CONNECT is not supported")
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [name + b": " + value for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
