"""Origins as browsers write them, so that they can be compared letter by letter (RFC 6454)."""

import ipaddress
import re

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
